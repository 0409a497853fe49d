"""From a Keras model to an ONNX file that is there only if it is right."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_tfcl.export.errors import ParityError, ParityWarning, VerificationError
from keras_tfcl.export.keras_to_onnx.convert import convert, supported_opsets
from keras_tfcl.export.keras_to_onnx.external_data import choose_outside, store_outside
from keras_tfcl.export.keras_to_onnx.graph_check import find_suspects
from keras_tfcl.export.keras_to_onnx.model_card import describe, describe_preprocessing
from keras_tfcl.export.keras_to_onnx.precision import Precision, computing_as_built, computing_in_float32
from keras_tfcl.export.keras_to_onnx.reference_rows import Probe, difference_of, make_probes
from keras_tfcl.export.keras_to_onnx.source import Source, read_source
from keras_tfcl.export.keras_to_onnx.unsupported import hints, lint_layers
from keras_tfcl.export.report import ExportReport, make_report
from keras_tfcl.export.runtime.atomic_write import atomic_write, check_target, write_synced
from keras_tfcl.export.runtime.golden_rows import dump_probes
from keras_tfcl.export.runtime.images import image_rule
from keras_tfcl.export.runtime.metadata import KEY, check_notes, dump_metadata
from keras_tfcl.export.runtime.parity import Parity
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.verify import check_file, mismatch_text

_MAX_BYTES = (1 << 31) - (1 << 24)  # protobuf's limit for one message, less room for the graph around the weights


def export_onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    projector: bool = False,
    normalize: bool = True,
    preprocessing: Any = None,
    input_dtype: str | None = None,
    opset: int = 17,
    samples: Any = None,
    notes: Mapping[str, Any] | None = None,
    allow_mismatch: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write the encoder of `model` as an ONNX file, and prove that it gives the same embeddings.

    The graph computes `model(x, training=False)` in float32, and e / |e|₂ of it when `normalize`. Its input is called
    `image` (rank 4), `tokens` (integers, rank 2) or `features`; several inputs keep their names. Its output is
    `embedding`, `(batch, D)`, with a free batch. Before the file gets its name it is checked against the ONNX standard,
    loaded in onnxruntime, and compared with the model at batch 1 and 7 and on `samples`: differences up to 1e-4 of the
    embeddings' scale and cosines of at least 0.99999 pass; a row in a batch of 32 must equal the row alone. Whatever
    fails, and a kill at any moment, leaves no new file and keeps an old one.

    A model in mixed precision, float16 or bfloat16 is written, and compared, in float32 with the same weights; the
    report tells how far its own embeddings are from that. Weights beyond 2 GiB, which one ONNX file cannot hold, go to
    a second file `<path>.<hash>.data` beside it, which must be copied with it.

    This is not `model.export(format="onnx")`, which makes none of these checks. While it traces the model it switches
    the whole process to eager functions, so do not export while another thread trains.

    Args:
        model: a `keras.Model` from a batch of inputs to one `(batch, D)` embedding, or a `ContrastiveModel`, of which
            `model.encoder` is exported.
        path: the file to write, in a folder that exists.
        projector: keep the projector of a `ContrastiveModel` behind its encoder.
        normalize: divide each embedding by its length, inside the graph. Rows of zeros stay zeros.
        preprocessing: a Keras layer or model to put before the encoder inside the file, such as
            `keras.layers.Rescaling(1 / 255)`. A model with inputs of its own declares those of the file.
        input_dtype: type of the float inputs in the file, converted to the model's inside, such as "uint8" for pixels.
        opset: ONNX operator set, from 13 to the newest that tf2onnx writes (18 with tf2onnx 1.17).
        samples: rows of real input to compare on besides synthetic ones: an array, a tuple of arrays, or a dict by
            input name. Needed for a subclassed model that was never called, or that holds an `Embedding`, whose
            input type it does not record. They are not stored.
        notes: what else a server should know, stored in the metadata as JSON, at most 32 KiB. `notes["image"]` says
            how pictures become rows: a dict with `range`, `size`, `resize` or `interpolation`.
        allow_mismatch: write the file with a `ParityWarning` although its embeddings differ.
        progress: called with the name of each stage as it starts, such as `print`. The conversion can take a minute.

    Returns:
        An `ExportReport`; `print` it.

    Raises:
        UnsupportedLayerError: a layer is known to convert wrongly; the message names it and what to do instead.
        UnsupportedOpError: an operation has no ONNX counterpart.
        ModelInputError, ModelOutputError: the model is not a function from arrays to one embedding.
        InputError: `samples` do not fit, or no server could read pictures by `notes["image"]`.
        ParityError: the embeddings differ and `allow_mismatch` is False.
        VerificationError: the file is not valid, or rows of a batch influence one another.
        TypeError, ValueError, FileNotFoundError: an argument is wrong.
        ImportError: a package is missing; the message names the extra.

    Example:

    >>> import keras
    >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> report = export_onnx(encoder, "encoder.onnx")               # doctest: +SKIP
    >>> report.dimension, report.matches                            # doctest: +SKIP
    (4, True)
    """
    started = time.perf_counter()
    progress = progress or _say_nothing
    path = _check_arguments(path, opset, notes)
    progress("look at the layers")
    source = read_source(
        model, projector=projector, samples=samples, preprocessing=preprocessing, input_dtype=input_dtype
    )
    _check_image_note(source, notes or {}, path)
    with computing_in_float32(source.layers) as precision:
        converted = _convert(source, precision, normalize, opset, samples, progress)
    facts = describe(model, converted.source, dimension=converted.dimension, normalize=normalize)
    facts |= {"precision": converted.precision, "notes": dict(notes or {}), "probes": _stored(source, converted.probes)}
    with atomic_write(path) as draft:
        facts, parity = _write_checked(draft, converted, facts, allow_mismatch, progress)
        progress("move into place")
    return make_report(path, opset, source.inputs, facts, parity, hints(source.layers), time.perf_counter() - started)


@dataclass(frozen=True)
class _Converted:
    """An ONNX model that nothing has checked yet, and what to check it with."""

    source: Source
    probes: list[Probe]
    onnx_model: Any
    outside: list[Any]
    precision: dict[str, Any]

    @property
    def dimension(self) -> int:
        return self.probes[0].reference.shape[1]


def _say_nothing(stage: str) -> None:
    return None


def _check_arguments(path: str | os.PathLike[str], opset: int, notes: Mapping[str, Any] | None) -> Path:
    """Return the path, after all that can be found wrong before any work."""
    for module, extra in (("tf2onnx", "export"), ("onnx", "export"), ("onnxruntime", "serve")):
        require(module, extra)
    if opset not in supported_opsets():
        raise ValueError(
            f"`opset` must be an integer from {supported_opsets()[0]} to {supported_opsets()[-1]}. Received: "
            f"opset={opset!r}. Use 17, which every onnxruntime since 1.12 reads."
        )
    check_notes(notes)
    check_target(Path(path))
    return Path(path)


def _check_image_note(source: Source, notes: Mapping[str, Any], path: Path) -> None:
    """Refuse a note on pictures by which no server could read one."""
    if "image" in notes and len(source.inputs) == 1 and len(source.inputs[0].shape) == 4:
        image_rule(source.inputs, {"preprocessing": describe_preprocessing(source), "notes": notes}, path)


def _convert(
    source: Source, precision: Precision, normalize: bool, opset: int, samples: Any, progress: Callable[[str], None]
) -> _Converted:
    """Compute what the file must give, and make the model that should."""
    lint_layers(source.layers)
    progress("embed rows to compare with")
    probes = make_probes(source, normalize=normalize, samples=samples)
    lint_layers(source.layers)  # again: calling the model may just have built layers
    dimension = probes[0].reference.shape[1]
    outside = choose_outside(source.weights, _MAX_BYTES)
    onnx_model = convert(
        source, dimension=dimension, normalize=normalize, opset=opset, outside=outside, progress=progress
    )
    return _Converted(source, probes, onnx_model, outside, _precision_facts(source, precision, probes, normalize))


def _precision_facts(source: Source, precision: Precision, probes: list[Probe], normalize: bool) -> dict[str, Any]:
    """Say in which precision the model was built, and how far its own embeddings are from those in float32."""
    if not precision.policies:
        return {"policies": [], "difference": None}
    with computing_as_built(precision):
        difference = difference_of(source, probes, normalize)
    return {"policies": precision.policies, "difference": difference and difference.to_dict()}


def _stored(source: Source, probes: list[Probe]) -> list[dict[str, Any]]:
    names = [spec.name for spec in source.inputs]
    return dump_probes([(dict(zip(names, probe.recipes, strict=False)), probe.reference) for probe in probes])


def _write_checked(
    draft: Path,
    converted: _Converted,
    facts: dict[str, Any],
    allow_mismatch: bool,
    progress: Callable[[str], None],
) -> tuple[dict[str, Any], Parity]:
    """Write the model, check it, and write it again with the parity among its facts."""
    if converted.outside:
        progress("write the weights beyond the limit of one file")
        data_file = store_outside(draft.parent, draft.name, converted.onnx_model, converted.outside)
        facts = facts | {"data_file": data_file.to_dict()}
    _write(draft, converted.onnx_model, facts)
    progress("check the file and compare its embeddings")
    parity = check_file(draft, converted.source, converted.probes)
    if not parity.passed:
        _report_mismatch(parity, converted, allow_mismatch)
    facts = facts | {"parity": parity.to_dict()}
    _write(draft, converted.onnx_model, facts)
    if require("onnx", "export").load(draft, load_external_data=False) != converted.onnx_model:
        raise VerificationError(f"Expected {draft} to read back as written. Received: another model. Check the disk.")
    return facts, parity


def _report_mismatch(parity: Parity, converted: _Converted, allow_mismatch: bool) -> None:
    suspects = find_suspects(converted.onnx_model, converted.source)
    if not allow_mismatch:
        found = f"Look at {'; '.join(suspects)}" if suspects else "Look for an operation that ONNX defines otherwise"
        raise ParityError(mismatch_text(parity, f"{found}; or accept the difference with allow_mismatch=True."))
    warnings.warn(
        mismatch_text(parity, "It is written nevertheless: allow_mismatch=True."), ParityWarning, stacklevel=4
    )


def _write(draft: Path, onnx_model: Any, facts: dict[str, Any]) -> None:
    require("onnx.helper", "export").set_model_props(onnx_model, {KEY: dump_metadata(facts)})
    write_synced(draft, onnx_model.SerializeToString())
