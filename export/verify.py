"""The checks between a converted file and the name it was asked for. A file that fails one is not written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_tfcl.export.errors import (
    BatchInvarianceError,
    ExportError,
    ModelFileError,
    ParityError,
    VerificationError,
)
from keras_tfcl.export.keras_to_onnx.graph_check import find_batch_reductions, load_checked
from keras_tfcl.export.keras_to_onnx.model_card import describe_preprocessing
from keras_tfcl.export.keras_to_onnx.precision import computing_in_float32
from keras_tfcl.export.keras_to_onnx.reference_rows import Probe, make_probes
from keras_tfcl.export.keras_to_onnx.source import Source, hash_weights, read_source
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.inputs import InputSpec
from keras_tfcl.export.runtime.metadata import KEY
from keras_tfcl.export.runtime.parity import MIN_COSINE, RELATIVE_TOLERANCE, Parity, compare
from keras_tfcl.export.runtime.requirements import require

_WIDE = 32  # rows in the batch that shows whether rows influence one another
_MOST_NUMBERS = 8_000_000  # in one input of that batch; large images get fewer rows


def verify_onnx(path: str | os.PathLike[str], model: Any, samples: Any = None, *, preprocessing: Any = None) -> Parity:
    """Check that an exported file is valid, runs, and gives the embeddings of `model`.

    Makes every check of `export_onnx`: operations, interface, validity, loading in onnxruntime, embeddings at batch 1
    and 7 and of `samples`, and that a row's embedding does not depend on its batch. For a server without Keras there is
    `check_probes`.

    Args:
        path: a file written by `export_onnx`.
        model: the model it was exported from, or one with the same weights.
        samples: rows of real input: an array, a tuple of arrays, or a dict by input name.
        preprocessing: the one given to `export_onnx`.

    Returns:
        The differences found, all within tolerance.

    Raises:
        ParityError: the embeddings differ.
        VerificationError: another check fails.
        ModelFileError: the file was not written by `export_onnx`, or is damaged.

    Example:

    >>> verify_onnx("encoder.onnx", model).passed                   # doctest: +SKIP
    True
    """
    path = Path(path)
    encoder = OnnxEncoder(path, providers="cpu")
    metadata = encoder.metadata
    if "normalized" not in metadata:
        raise ModelFileError(
            f"Expected a file written by export_onnx. Received: {path}, without the metadata `{KEY}`. Export again."
        )
    source = read_source(
        model, projector=metadata.get("projector") == "kept", samples=samples, preprocessing=preprocessing
    )
    if len(source.inputs) == len(encoder.inputs):
        source = replace(source, inputs=_with_dtypes(source.inputs, encoder.inputs))
    with computing_in_float32(source.layers):
        probes = make_probes(source, normalize=metadata["normalized"], samples=samples)
    if source.inputs != encoder.inputs:
        raise VerificationError(
            f"The file must take the inputs of the model, {'; '.join(map(str, source.inputs))}. Received: "
            f"{'; '.join(map(str, encoder.inputs))}. {_remedy(metadata, source, preprocessing)}"
        )
    parity = check_file(path, source, probes)
    if not parity.passed:
        raise ParityError(mismatch_text(parity, _remedy(metadata, source, preprocessing)))
    return parity


def _remedy(metadata: Mapping[str, Any], source: Source, preprocessing: Any) -> str:
    """Say why a file may not be that of a model: layers before the encoder that were not given again, or weights."""
    same = metadata.get("weights_sha256") == hash_weights(source.weights)
    remedy = "Export again." if same else "The weights of the model are not those in the file: export again."
    if preprocessing is not None:
        return remedy
    give = "give the same to verify_onnx(path, model, preprocessing=...) in Python."
    inside = (metadata.get("preprocessing") or {}).get("inside") or []
    if len(inside) > len(describe_preprocessing(source)["inside"]):
        return f"The export had `preprocessing`: {give}"
    return f"{remedy} If the export had `preprocessing`, {give}"


def _with_dtypes(wanted: Sequence[InputSpec], received: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Take over the types of float inputs, which `input_dtype` may have changed."""
    return tuple(
        replace(spec, dtype=found.dtype) if "float" in spec.dtype else spec
        for spec, found in zip(wanted, received, strict=True)
    )


def check_file(path: Path, source: Source, probes: Sequence[Probe]) -> Parity:
    """Make every check but one: whether the parity that is returned has passed.

    Raises:
        UnsupportedOpError: an operation is not in the ONNX standard, or onnxruntime cannot run it.
        VerificationError: another check fails.
    """
    encoder = load_checked(path, source.inputs, probes[0].reference.shape[1], source.layers)
    embeddings = [_embed(encoder, probe.inputs) for probe in probes]
    parity = _compare_with_wide_batch(encoder, probes[1].inputs)
    if not parity.passed:
        model = require("onnx", "export").load(path, load_external_data=False)
        found = "; ".join(find_batch_reductions(model, source.layers)) or "an operation across rows"
        raise BatchInvarianceError(
            f"A row must have the same embedding alone and in a batch. Received: {parity} between the two. Look at "
            f"{found}: let no layer use statistics of its batch when `training` is False."
        )
    return compare(np.concatenate([probe.reference for probe in probes]), np.concatenate(embeddings))


def mismatch_text(parity: Parity, remedy: str) -> str:
    """Say by how much the embeddings of a file miss those of its model."""
    return (
        f"The file must give the embeddings of the model: difference at most {RELATIVE_TOLERANCE:g} of their scale, "
        f"cosine of each row at least {MIN_COSINE}. Received: {parity}. {remedy}"
    )


def _compare_with_wide_batch(encoder: OnnxEncoder, inputs: Sequence[np.ndarray]) -> Parity:
    """Compare the embeddings of rows alone with those of the same rows in one batch."""
    rows = max(2, min(_WIDE, _MOST_NUMBERS // max(array[0].size for array in inputs)))
    wide = [np.resize(array, (rows, *array.shape[1:])) for array in inputs]  # the rows again and again
    alone = [_embed(encoder, [array[row : row + 1] for array in wide]) for row in range(rows)]
    return compare(np.concatenate(alone), _embed(encoder, wide))


def _embed(encoder: OnnxEncoder, inputs: Sequence[np.ndarray]) -> np.ndarray:
    rows = len(inputs[0])
    feed = {spec.name: values for spec, values in zip(encoder.inputs, inputs, strict=True)}
    try:
        return encoder.encode(feed, batch_size=rows)
    except ExportError as error:
        raise VerificationError(f"The file must run on {rows} rows that the model embeds. Received: {error}") from error
