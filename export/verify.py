"""The checks between a converted file and the name it was asked for. A file that fails one is not written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_tfcl.export.encoder import OnnxEncoder
from keras_tfcl.export.errors import (
    BatchInvarianceError,
    ExportError,
    ModelFileError,
    ParityError,
    VerificationError,
)
from keras_tfcl.export.metadata import KEY
from keras_tfcl.export.parity import MIN_COSINE, RELATIVE_TOLERANCE, Parity, compare
from keras_tfcl.export.probes import Probe, make_probes
from keras_tfcl.export.source import Source, hash_weights, read_source
from keras_tfcl.export.structure import load_checked


def verify_onnx(path: str | os.PathLike[str], model: Any, samples: Any = None) -> Parity:
    """Check that an exported file is valid, runs, and gives the embeddings of `model`.

    Makes every check of `export_onnx`: operations, interface, validity, loading in onnxruntime, embeddings at batch 1
    and 5 and of `samples`, and that a row's embedding does not depend on its batch.

    Args:
        path: a file written by `export_onnx`.
        model: the model it was exported from, or one with the same weights.
        samples: rows of real input: an array, a tuple of arrays, or a dict by input name.

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
    metadata = OnnxEncoder(path, providers="cpu").metadata
    if "normalized" not in metadata:
        raise ModelFileError(
            f"Expected a file written by export_onnx. Received: {path}, without the metadata `{KEY}`. Export again."
        )
    source = read_source(model, projector=metadata.get("projector") == "kept", samples=samples)
    probes = make_probes(source, normalize=bool(metadata["normalized"]), samples=samples)
    parity = check_file(path, source, probes)
    if not parity.passed:
        same = metadata.get("weights_sha256") == hash_weights(source.weights)
        remedy = "Export again." if same else "The weights of the model are not those in the file: export again."
        raise ParityError(mismatch_text(parity, remedy))
    return parity


def check_file(path: Path, source: Source, probes: Sequence[Probe]) -> Parity:
    """Make every check but one: whether the parity that is returned has passed.

    Raises:
        UnsupportedOpError: an operation is not in the ONNX standard, or onnxruntime cannot run it.
        VerificationError: another check fails.
    """
    encoder = load_checked(path, source.inputs, probes[0].reference.shape[1], source.layers)
    embeddings = [_embed(encoder, probe, rows=len(probe.reference)) for probe in probes]
    parity = compare(np.concatenate([probe.reference for probe in probes]), np.concatenate(embeddings))
    _check_batch_invariance(encoder, probes, embeddings)
    return parity


def mismatch_text(parity: Parity, remedy: str) -> str:
    """Say by how much the embeddings of a file miss those of its model."""
    return (
        f"The file must give the embeddings of the model: difference at most {RELATIVE_TOLERANCE:g} of their scale, "
        f"cosine of each row at least {MIN_COSINE}. Received: {parity}. {remedy}"
    )


def _check_batch_invariance(encoder: OnnxEncoder, probes: Sequence[Probe], embeddings: Sequence[np.ndarray]) -> None:
    for probe, together in zip(probes, embeddings, strict=True):
        if len(together) == 1:
            continue
        parity = compare(together, _embed(encoder, probe, rows=1))
        if not parity.passed:
            raise BatchInvarianceError(
                f"A row must have the same embedding alone and in a batch. Received: {parity} between batch 1 and "
                f"{len(together)}. Let no layer use statistics of its batch when `training` is False."
            )


def _embed(encoder: OnnxEncoder, probe: Probe, rows: int) -> np.ndarray:
    feed = {spec.name: values for spec, values in zip(encoder.inputs, probe.inputs, strict=True)}
    try:
        return encoder.encode(feed, batch_size=rows)
    except ExportError as error:
        raise VerificationError(
            f"The file must run on {len(probe.reference)} rows that the model embeds. Received: {error}"
        ) from error
