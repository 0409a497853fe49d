"""Create a quantized model from a float model, compare the two, and write it if it is accurate enough."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_tfcl.atomic_write import atomic_write, check_target, write_synced
from keras_tfcl.export.errors import ExportError, ModelFileError, QuantizationError, RecallError
from keras_tfcl.export.float16 import Rows
from keras_tfcl.export.recall import Recall, compare_neighbours
from keras_tfcl.export.runtime.benchmark import benchmark
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.golden_inputs import Generator, dump_golden_inputs, load_golden_inputs
from keras_tfcl.export.runtime.inputs import cast_input, split_inputs
from keras_tfcl.export.runtime.metadata import KEY, GoldenBatch, dump_metadata
from keras_tfcl.export.runtime.model_file import content_hash
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.runtime.typing import Inputs

if TYPE_CHECKING:
    import onnx

_GATE = 10  # the k of `min_recall`
_SECONDS = 0.5  # of measuring the latency of each model


@dataclass(frozen=True)
class QuantizationReport:
    """What `quantize` or `to_float16` wrote. `print` it, or store `to_dict()` as JSON.

    Attributes:
        path: the file of the quantized model.
        mode: "dynamic", "static" or "float16".
        recall: how far it finds the neighbours that the float model finds, on the caller's rows.
        bytes: size of the file.
        float_bytes: size of the float model's file.
        latency: milliseconds for one row on this machine, median and 95th percentile.
        float_latency: the same of the float model.
        float_weights_sha256: hash of the float model's weights; None if `export_onnx` did not write it.
        kept_in_float32: operations of a float16 file that compute in float32 because of their values.
    """

    path: Path
    mode: str
    recall: Recall
    bytes: int
    float_bytes: int
    latency: dict[str, float]
    float_latency: dict[str, float]
    float_weights_sha256: str | None
    kept_in_float32: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the report in types that JSON has."""
        overlap = {str(k): share for k, share in self.recall.overlap.items()}
        return asdict(self) | {
            "path": str(self.path),
            "recall": asdict(self.recall) | {"overlap": overlap},
            "kept_in_float32": list(self.kept_in_float32),
        }

    def __str__(self) -> str:
        overlap = self.recall.overlap.items()
        lines = {
            "file": f"{self.path} ({self.mode})",
            "size": f"{self.bytes / 1e6:.2f} MB, float model {self.float_bytes / 1e6:.2f} MB",
            "neighbours kept": ", ".join(f"{share:.1%} of {k}" for k, share in overlap) or "too few rows to say",
            "cosine": f"mean {self.recall.mean_cosine:.5f}, min {self.recall.min_cosine:.5f}",
            "rows compared": str(self.recall.rows),
            "one row takes": " and ".join(
                f"{times['p50_ms']:.2f} ms (p95 {times['p95_ms']:.2f}){of}"
                for times, of in ((self.latency, ""), (self.float_latency, " in the float model"))
            ),
        }
        if self.kept_in_float32:
            lines["kept in float32"] = ", ".join(self.kept_in_float32)
        return "\n".join(f"{name:<17} {value}" for name, value in lines.items())


def write_quantized_model(
    float_model: OnnxEncoder,
    out: str | os.PathLike[str],
    mode: str,
    rows: Rows,
    min_recall: float | None,
    convert: Callable[[Path, np.ndarray], tuple[onnx.ModelProto, tuple[str, ...]]],
) -> QuantizationReport:
    """Convert, compare with the float model, and give the result its name.

    All work is done in a temporary folder elsewhere, so that a kill leaves nothing beside `out`.

    Args:
        float_model: the encoder to quantize.
        out: the file to write.
        mode: for the report.
        rows: samples to compare on.
        min_recall: least share of the 10 nearest neighbours to keep.
        convert: a function of a folder for its drafts and of the float model's embeddings of `rows`, which returns the
            quantized model and the operations that it kept in float32.

    Raises:
        InputError: the float model cannot embed `rows`.
        ValueError: it gives all of them the same embedding.
        RecallError: fewer than `min_recall` of the 10 nearest neighbours are kept.
        QuantizationError: the conversion fails, or its result does not run.
    """
    expected = embed_different(float_model, rows, "samples")
    with tempfile.TemporaryDirectory(prefix="keras_tfcl_") as folder:
        draft = Path(folder) / "quantized.onnx"
        try:
            model, kept = convert(Path(folder), expected)
            _check_unchanged(float_model)
            del model.metadata_props[:]  # such as the content hash of the float model
            draft.write_bytes(content := model.SerializeToString())
            quantized = OnnxEncoder(draft, providers="cpu")
            report = _measure(float_model, quantized, mode, rows, expected, kept)
        except QuantizationError:
            raise
        except ExportError as error:
            raise QuantizationError(f"The quantized file must run. Received: {error} Try another `mode`.") from error
        _check_recall(report.recall, min_recall)
        content += _metadata_entry(float_model, quantized, report, content)
        with atomic_write(Path(out)) as temporary:
            write_synced(temporary, content)
    return replace(report, path=Path(out), bytes=len(content))


def embed_different(float_model: OnnxEncoder, rows: Rows, name: str) -> np.ndarray:
    """Return the embeddings of `rows`.

    Raises:
        InputError: they cannot be embedded.
        ValueError: all embeddings are the same, so that they have no neighbours and no range.
    """
    embeddings = float_model.encode(rows)
    if (embeddings == embeddings[:1]).all():
        raise ValueError(
            f"`{name}` must hold samples with different embeddings. Received: the same embedding for all "
            f"{len(embeddings)} of them. Give real samples, of an encoder that tells them apart."
        )
    return embeddings


def open_float_model(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> OnnxEncoder:
    """Load the file to quantize.

    Raises:
        ValueError: `out` is the same file.
        FileNotFoundError, IsADirectoryError: `out` cannot be written.
        QuantizationError: it is a folder, is quantized itself, keeps weights in a second file, or has a fixed batch.
        ModelFileError: it is not an encoder.
    """
    if Path(path).resolve() == Path(out).resolve():
        raise ValueError(f"`out` must be another file than `path`. Received: {out} for both. Keep the float32 file.")
    check_target(Path(out))
    if Path(path).is_dir():
        raise QuantizationError(
            f"Expected an ONNX file. Received: {path}, a folder. Export the model with its pooling to one (batch, D) "
            f"output, and quantize that file."
        )
    float_model = OnnxEncoder(path, providers="cpu")
    for key, what in (("quantization", "a quantized one"), ("data_file", "a model with external data")):
        if float_model.metadata.get(key):
            raise QuantizationError(
                f"Expected a float32 file in one piece. Received: {path}, {what}. Quantize the file that export_onnx "
                f"wrote, of an encoder below 2 GB."
            )
    if float_model.inputs[0].shape[0] is not None:
        raise QuantizationError(
            f"Expected a file with a free batch. Received: {path} with {float_model.inputs[0]}. Export once more "
            f"without `batch_size`, and quantize that file."
        )
    return float_model


def check_rows(float_model: OnnxEncoder, samples: Inputs, min_recall: float | None, every_second: bool = False) -> Rows:
    """Return `samples` by input name in the types of the inputs. `every_second`: only every second one is compared.

    Raises:
        ValueError: too few rows, or `min_recall` is not between 0 and 1.
        InputError: they do not fit.
    """
    if min_recall is not None and not 0 <= min_recall <= 1:
        raise ValueError(
            f"`min_recall` must be from 0 to 1. Received: min_recall={min_recall!r}. Use for example 0.95."
        )
    arrays = split_inputs(samples, float_model.inputs)
    least = (3 if min_recall is None else 2 * _GATE + 1) * (2 if every_second else 1)
    if len(arrays[0]) < least:
        why = ", as static mode without `calibration` compares every second one" if every_second else ""
        raise ValueError(
            f"`samples` must hold at least {least} samples{why}. Received: {len(arrays[0])}. Pass some hundreds of "
            f"real samples, because recall on few says little."
        )
    return {spec.name: cast_input(array, spec) for spec, array in zip(float_model.inputs, arrays, strict=True)}


def _check_unchanged(float_model: OnnxEncoder) -> None:
    """Raise if another process has replaced the file, which the conversion opens again."""
    now = OnnxEncoder(float_model.path, providers="cpu")
    if (now.weights_hash, now.metadata) != (float_model.weights_hash, float_model.metadata):
        raise QuantizationError(
            f"The float32 file must not change while it is quantized. Received: {float_model.path}, which was "
            f"replaced. Quantize it again."
        )


def _measure(
    float_model: OnnxEncoder,
    quantized: OnnxEncoder,
    mode: str,
    rows: Rows,
    expected: np.ndarray,
    kept: tuple[str, ...],
) -> QuantizationReport:
    if (quantized.inputs, quantized.dimension) != (float_model.inputs, float_model.dimension):
        raise ModelFileError(f"Expected the interface of {float_model!r}. Received: {quantized!r}.")
    one = {name: array[:1] for name, array in rows.items()}
    return QuantizationReport(
        path=quantized.path,
        mode=mode,
        recall=compare_neighbours(expected, quantized.encode(rows)),
        bytes=quantized.path.stat().st_size,
        float_bytes=float_model.path.stat().st_size,
        latency=_latency(quantized, one),
        float_latency=_latency(float_model, one),
        float_weights_sha256=float_model.metadata.get("weights_sha256"),
        kept_in_float32=kept,
    )


def _latency(encoder: OnnxEncoder, one: Rows) -> dict[str, float]:
    (speed,) = benchmark(encoder, [1], _SECONDS, one).speeds
    return {"p50_ms": speed.p50_ms, "p95_ms": speed.p95_ms}


def _check_recall(recall: Recall, min_recall: float | None) -> None:
    if min_recall is not None and recall.overlap[_GATE] < min_recall:
        raise RecallError(
            f"At least {min_recall:.1%} of the {_GATE} nearest neighbours must be kept. Received: "
            f"{recall.overlap[_GATE]:.1%} on {recall.rows} rows. No file is written. Use to_float16, another `mode`, "
            f"more calibration rows, or a lower min_recall."
        )


def _metadata_entry(
    float_model: OnnxEncoder, quantized: OnnxEncoder, report: QuantizationReport, content: bytes
) -> bytes:
    """Return what to append to the bytes of the quantized model: the float model's metadata, and the report."""
    onnx = require("onnx", "quantize")
    metadata = float_model.metadata
    if metadata.get("parity", {}).get("passed") is not False:
        metadata.pop("parity", None)  # measured on the float model; a failure applies to both
    recorded = {name: value for name, value in report.to_dict().items() if name not in ("path", "bytes")}
    metadata |= {
        "probes": _golden_inputs(quantized, float_model),
        "quantization": recorded,
        "content_hash": content_hash(content),
    }
    entry = onnx.StringStringEntryProto(key=KEY, value=dump_metadata(metadata))
    return onnx.ModelProto(metadata_props=[entry]).SerializeToString()


def _golden_inputs(quantized: OnnxEncoder, float_model: OnnxEncoder) -> list[GoldenBatch]:
    """The golden inputs of the float model with the embeddings of the quantized one, for `check_probes` elsewhere."""
    names = [spec.name for spec in float_model.inputs]
    stored = float_model.metadata.get("probes") or []
    if not stored:
        return []
    generators = [{name: Generator.from_dict(entry["inputs"][name]) for name in names} for entry in stored]
    loaded = load_golden_inputs(float_model.metadata, names, float_model.dimension, float_model.path)
    return dump_golden_inputs(
        [(generator, quantized.encode(inputs)) for generator, (inputs, _) in zip(generators, loaded, strict=True)]
    )
