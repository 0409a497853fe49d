"""Make a smaller variant of an exported file, measure it against its parent, and write it only if it is good enough."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_tfcl.export.errors import ExportError, ModelFileError, QuantizationError, RecallError
from keras_tfcl.export.recall import Recall, compare_neighbours, latency
from keras_tfcl.export.runtime.drafts import check_target, written_beside
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.generators import Recipe
from keras_tfcl.export.runtime.golden_rows import dump_probes, load_probes
from keras_tfcl.export.runtime.inputs import cast_input, split_inputs
from keras_tfcl.export.runtime.metadata import KEY, dump_metadata
from keras_tfcl.export.runtime.publish import write_synced
from keras_tfcl.export.runtime.requirements import require

Rows = dict[str, np.ndarray]  # one array for each input of the encoder
_GATE = 10  # the k of `min_recall`


@dataclass(frozen=True)
class VariantReport:
    """What `quantize` or `to_float16` wrote. `print` it, or store `to_dict()` as JSON.

    Attributes:
        path: the file.
        mode: "dynamic", "static" or "float16".
        recall: how its neighbours agree with those of the parent, on the caller's rows.
        bytes, parent_bytes: sizes of the files.
        latency, parent_latency: milliseconds for one row on this machine, median and 95th percentile.
        parent_weights_sha256: hash of the parent's weights; None for a parent that `export_onnx` did not write.
    """

    path: Path
    mode: str
    recall: Recall
    bytes: int
    parent_bytes: int
    latency: dict[str, float]
    parent_latency: dict[str, float]
    parent_weights_sha256: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the report in types that JSON has."""
        overlap = {str(k): share for k, share in self.recall.overlap.items()}
        return asdict(self) | {"path": str(self.path), "recall": asdict(self.recall) | {"overlap": overlap}}

    def __str__(self) -> str:
        overlap = self.recall.overlap.items()
        lines = {
            "file": f"{self.path} ({self.mode})",
            "size": f"{self.bytes / 1e6:.2f} MB, parent {self.parent_bytes / 1e6:.2f} MB",
            "neighbours kept": ", ".join(f"{share:.1%} of {k}" for k, share in overlap) or "too few rows to say",
            "rank correlation": f"{self.recall.spearman:.4f} (Spearman)",
            "cosine": f"mean {self.recall.mean_cosine:.5f}, min {self.recall.min_cosine:.5f}",
            "rows compared": str(self.recall.rows),
            "one row takes": " and ".join(
                f"{times['p50_ms']:.2f} ms (p95 {times['p95_ms']:.2f}){of}"
                for times, of in ((self.latency, ""), (self.parent_latency, " in the parent"))
            ),
        }
        return "\n".join(f"{name:<17} {value}" for name, value in lines.items())


def write_variant(
    parent: OnnxEncoder,
    out: str | os.PathLike[str],
    mode: str,
    rows: Rows,
    min_recall: float | None,
    convert: Callable[[Path, Path], None],
) -> VariantReport:
    """Let `convert(folder, draft)` write the draft, compare it with the parent, and give it its name.

    All work is done in a temporary folder elsewhere, so that a kill leaves nothing beside `out`.

    Raises:
        InputError: the parent cannot embed `rows`.
        RecallError: fewer than `min_recall` of the 10 nearest neighbours are kept.
        QuantizationError: the conversion fails, or its result does not run.
    """
    expected = parent.encode(rows)  # first, so that nothing else is blamed for rows that cannot be embedded
    with tempfile.TemporaryDirectory(prefix="keras_tfcl_") as folder:
        draft = Path(folder) / "variant.onnx"
        try:
            convert(Path(folder), draft)
            report = _measure(parent, draft, mode, rows, expected)
        except QuantizationError:
            raise
        except ExportError as error:
            raise QuantizationError(f"The quantized file must run. Received: {error} Try another `mode`.") from error
        _check_recall(report.recall, min_recall)
        content = _stamped(draft, parent, report)
        with written_beside(Path(out)) as beside:
            write_synced(beside, content)
    return replace(report, path=Path(out), bytes=len(content))


def open_parent(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> OnnxEncoder:
    """Load the file to make a variant of.

    Raises:
        ValueError: `out` is the same file.
        FileNotFoundError, IsADirectoryError: `out` cannot be written.
        QuantizationError: it is a variant itself, or keeps weights in a second file.
        ModelFileError: it is not an encoder.
    """
    if Path(path).resolve() == Path(out).resolve():
        raise ValueError(f"`out` must be another file than `path`. Received: {out} for both. Keep the float32 file.")
    check_target(Path(out))
    parent = OnnxEncoder(path, providers="cpu")
    for key, what in (("variant", "a file that is quantized already"), ("data_file", "a model with a data file")):
        if parent.metadata.get(key):
            raise QuantizationError(
                f"Expected a float32 file in one piece. Received: {path}, {what}. Quantize the file that export_onnx "
                f"wrote, of an encoder below 2 GB."
            )
    return parent


def check_rows(parent: OnnxEncoder, samples: Any, min_recall: float | None, halved: bool = False) -> Rows:
    """Return `samples` by input name in the types of the inputs. `halved`: every second one will be compared.

    Raises:
        ValueError: too few rows, or `min_recall` is not between 0 and 1.
        InputError: they do not fit.
    """
    if min_recall is not None and not 0 <= min_recall <= 1:
        raise ValueError(
            f"`min_recall` must be from 0 to 1. Received: min_recall={min_recall!r}. Use for example 0.95."
        )
    arrays = split_inputs(samples, parent.inputs)
    least = (3 if min_recall is None else 2 * _GATE + 1) * (2 if halved else 1)
    if len(arrays[0]) < least:
        why = ", as static mode without `calibration` compares every second one" if halved else ""
        raise ValueError(
            f"`samples` must hold at least {least} rows{why}. Received: {len(arrays[0])}. Give some hundreds of real "
            f"rows: recall on few says little."
        )
    return {spec.name: cast_input(array, spec) for spec, array in zip(parent.inputs, arrays, strict=True)}


def _measure(parent: OnnxEncoder, draft: Path, mode: str, rows: Rows, expected: np.ndarray) -> VariantReport:
    variant = OnnxEncoder(draft, providers="cpu")
    if (variant.inputs, variant.dimension) != (parent.inputs, parent.dimension):
        raise ModelFileError(f"Expected the interface of {parent!r}. Received: {variant!r}.")
    one = {name: array[:1] for name, array in rows.items()}
    return VariantReport(
        path=draft,
        mode=mode,
        recall=compare_neighbours(expected, variant.encode(rows)),
        bytes=draft.stat().st_size,
        parent_bytes=parent.path.stat().st_size,
        latency=latency(lambda: variant.encode(one)),
        parent_latency=latency(lambda: parent.encode(one)),
        parent_weights_sha256=parent.metadata.get("weights_sha256"),
    )


def _check_recall(recall: Recall, min_recall: float | None) -> None:
    if min_recall is not None and recall.overlap[_GATE] < min_recall:
        raise RecallError(
            f"At least {min_recall:.1%} of the {_GATE} nearest neighbours must be kept. Received: "
            f"{recall.overlap[_GATE]:.1%} on {recall.rows} rows. No file is written. Use to_float16, another `mode`, "
            f"more calibration rows, or a lower min_recall."
        )


def _stamped(draft: Path, parent: OnnxEncoder, report: VariantReport) -> bytes:
    """Return the bytes of the variant with the parent's metadata and the report in its own."""
    onnx = require("onnx", "quantize")
    facts = parent.metadata
    if facts.get("parity", {}).get("passed") is not False:
        facts.pop("parity", None)  # it was measured on the parent; that it failed holds for the variant as well
    facts["probes"] = _probes(OnnxEncoder(draft, providers="cpu"), parent)
    variant = {name: value for name, value in report.to_dict().items() if name not in ("path", "bytes")}
    model = onnx.load(draft)
    onnx.helper.set_model_props(model, {KEY: dump_metadata(facts | {"variant": variant})})
    return model.SerializeToString()


def _probes(variant: OnnxEncoder, parent: OnnxEncoder) -> list[dict[str, Any]]:
    """The parent's probe rows with the embeddings of the variant, by which `check_probes` knows it elsewhere."""
    names = [spec.name for spec in parent.inputs]
    stored = parent.metadata.get("probes") or []
    recipes = [{name: Recipe.from_dict(entry["inputs"][name]) for name in names} for entry in stored]
    rows = (
        [inputs for inputs, _ in load_probes(parent.metadata, names, parent.dimension, parent.path)] if stored else []
    )
    return dump_probes([(recipe, variant.encode(inputs)) for recipe, inputs in zip(recipes, rows, strict=True)])
