"""From a Keras model to an ONNX file that is there only if it is right."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_tfcl.export.convert import convert, supported_opsets
from keras_tfcl.export.errors import ExportError, ParityError, ParityWarning, VerificationError
from keras_tfcl.export.lint import lint_layers
from keras_tfcl.export.metadata import KEY, dump_metadata
from keras_tfcl.export.parity import Parity
from keras_tfcl.export.probes import Probe, make_probes
from keras_tfcl.export.report import ExportReport
from keras_tfcl.export.requirements import installed_versions, require
from keras_tfcl.export.source import Source, hash_weights, read_source
from keras_tfcl.export.verify import check_file, mismatch_text

_MAX_BYTES = (1 << 31) - (1 << 24)  # protobuf's limit for one message, less room for the graph around the weights
_PACKAGES = ("keras-tfcl", "keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")


def export_onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    projector: bool = False,
    normalize: bool = True,
    opset: int = 17,
    samples: Any = None,
    allow_mismatch: bool = False,
) -> ExportReport:
    """Write the encoder of `model` as an ONNX file, and prove that it gives the same embeddings.

    The graph computes `model(x, training=False)` in float32, and e / |e|₂ of it when `normalize`. Its input is called
    `image` (rank 4), `tokens` (integers, rank 2) or `features`; several inputs keep their names. Its output is
    `embedding`, `(batch, D)`, with a free batch. Before the file gets its name it is checked against the ONNX standard,
    loaded in onnxruntime, and compared with the model at batch 1 and 5 and on `samples`: differences up to 1e-4 of the
    embeddings' scale and cosines of at least 0.99999 pass. Whatever fails leaves no new file and keeps an old one.

    This is not `model.export(format="onnx")`, which makes none of these checks. While it traces the model it switches
    the whole process to eager functions, so do not export while another thread trains.

    Args:
        model: a `keras.Model` from a batch of inputs to one `(batch, D)` embedding, or a `ContrastiveModel`, of which
            `model.encoder` is exported. Its layers must have the policy float32.
        path: the file to write, in a folder that exists.
        projector: keep the projector of a `ContrastiveModel` behind its encoder.
        normalize: divide each embedding by its length, inside the graph. Rows of zeros stay zeros.
        opset: ONNX operator set, from 13 to the newest that tf2onnx writes (18 with tf2onnx 1.17).
        samples: rows of real input to compare on besides synthetic ones: an array, a tuple of arrays, or a dict by
            input name. Needed for a subclassed model that was never called.
        allow_mismatch: write the file with a `ParityWarning` although its embeddings differ.

    Returns:
        An `ExportReport`; `print` it.

    Raises:
        UnsupportedLayerError: a layer is known to convert wrongly; the message names it and what to do instead.
        UnsupportedOpError: an operation has no ONNX counterpart.
        ModelInputError, ModelOutputError: the model is not a function from arrays to one embedding.
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
    path = _check_arguments(path, opset)
    source = read_source(model, projector=projector, samples=samples)
    lint_layers(source.layers)
    probes = make_probes(source, normalize=normalize, samples=samples)
    lint_layers(source.layers)  # again: calling the model may just have built layers
    _check_size(source)
    dimension = probes[0].reference.shape[1]
    onnx_model = convert(source, dimension=dimension, normalize=normalize, opset=opset)
    facts = _facts(source, dimension, normalize)
    with _written_atomically(path) as draft:
        parity = _write_checked(draft, onnx_model, facts, source, probes, allow_mismatch)
        size = draft.stat().st_size
    return ExportReport(
        path=path,
        bytes=size,
        opset=opset,
        inputs=source.inputs,
        dimension=dimension,
        normalized=normalize,
        projector=source.projector,
        weights_sha256=facts["weights_sha256"],
        matches=parity.passed,
        max_abs_diff=parity.max_abs_diff,
        min_cosine=parity.min_cosine,
        rows=parity.rows,
        seconds=time.perf_counter() - started,
        versions=facts["versions"],
    )


def _check_arguments(path: str | os.PathLike[str], opset: int) -> Path:
    """Return the path, after all that can be found wrong before any work."""
    for module, extra in (("tf2onnx", "export"), ("onnx", "export"), ("onnxruntime", "serve")):
        require(module, extra)
    if opset not in supported_opsets():
        raise ValueError(
            f"`opset` must be an integer from {supported_opsets()[0]} to {supported_opsets()[-1]}. Received: "
            f"opset={opset!r}. Use 17, which every onnxruntime since 1.12 reads."
        )
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`path` must be in a folder that exists. Received: {path}. Make {path.parent} first.")
    if path.is_dir():
        raise IsADirectoryError(f"`path` must name a file. Received: the folder {path}. Use {path / 'encoder.onnx'}.")
    return path


def _check_size(source: Source) -> None:
    size = sum(weight.numpy().nbytes for weight in source.weights)
    if size > _MAX_BYTES:
        raise ExportError(
            f"An ONNX file holds at most {_MAX_BYTES / 1e9:.1f} GB of weights. Received: {size / 1e9:.1f} GB. "
            f"Export a smaller encoder."
        )


def _facts(source: Source, dimension: int, normalize: bool) -> dict[str, Any]:
    """What the file says about itself, but for the parity that is measured on it."""
    return {
        "inputs": [spec.to_dict() for spec in source.inputs],
        "dimension": dimension,
        "normalized": normalize,
        "projector": source.projector,
        "weights_sha256": hash_weights(source.weights),
        "versions": installed_versions(*_PACKAGES),
    }


def _write_checked(
    draft: Path, onnx_model: Any, facts: dict[str, Any], source: Source, probes: list[Probe], allow_mismatch: bool
) -> Parity:
    """Write the model, check it, and write it again with the parity in its metadata."""
    _write(draft, onnx_model, facts)
    parity = check_file(draft, source, probes)
    if not parity.passed:
        _report_mismatch(parity, allow_mismatch)
    _write(draft, onnx_model, facts | {"parity": parity.to_dict()})
    if require("onnx", "export").load(draft) != onnx_model:
        raise VerificationError(f"Expected {draft} to read back as written. Received: another model. Check the disk.")
    return parity


def _report_mismatch(parity: Parity, allow_mismatch: bool) -> None:
    if not allow_mismatch:
        remedy = (
            "Look for a layer whose operation ONNX defines otherwise, such as a bicubic resize; or accept the "
            "difference with allow_mismatch=True."
        )
        raise ParityError(mismatch_text(parity, remedy))
    warnings.warn(
        mismatch_text(parity, "It is written nevertheless: allow_mismatch=True."), ParityWarning, stacklevel=4
    )


def _write(draft: Path, onnx_model: Any, facts: dict[str, Any]) -> None:
    require("onnx.helper", "export").set_model_props(onnx_model, {KEY: dump_metadata(facts)})
    with draft.open("wb") as file:
        file.write(onnx_model.SerializeToString())
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _written_atomically(path: Path) -> Iterator[Path]:
    """Give a draft beside `path` that takes its name when the block ends well, and vanishes otherwise."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
