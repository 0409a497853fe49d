"""The comparison of the export, repeated where the file is served. Needs NumPy and onnxruntime alone.

A file carries generators for a few input rows and the embeddings that the Keras model gave them, so that it can prove
itself on other hardware: a GPU that rounds more coarsely, another onnxruntime, a graph that a tool has changed.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_tfcl.export.errors import ModelFileError
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.generators import Generator
from keras_tfcl.export.runtime.parity import Parity, compare

_MAX_BYTES = 1 << 17  # of the embeddings in one file, so that the metadata stays small


def check_probes(path: str | os.PathLike[str], providers: str | Sequence[str] = "auto") -> Parity:
    """Compare what an exported file computes here with the embeddings that its Keras model gave.

    Args:
        path: a file written by `export_onnx`.
        providers: as in `OnnxEncoder`.

    Returns:
        The differences. `passed` says whether they are within the tolerance of an export; a GPU that rounds to TF32
        or a quantized file may be outside.

    Raises:
        ModelFileError: the file holds no probe rows: another tool wrote it, or its model needed real samples.

    Example:

    >>> check_probes("encoder.onnx", providers="cuda").passed       # doctest: +SKIP
    True
    """
    encoder = OnnxEncoder(path, providers=providers)
    names = [spec.name for spec in encoder.inputs]
    references, embeddings = [], []
    for inputs, reference in load_probes(encoder.metadata, names, encoder.dimension, path):
        references.append(reference)
        embeddings.append(encoder.encode(inputs))
    return compare(np.concatenate(references), np.concatenate(embeddings))


def dump_probes(probes: Sequence[tuple[dict[str, Generator], np.ndarray]]) -> list[dict[str, Any]]:
    """Return generators and embeddings as JSON, as many of `probes` as are small enough."""
    stored, room = [], _MAX_BYTES
    for generators, reference in probes:
        embeddings = reference.astype("<f4").tobytes()
        room -= len(embeddings)
        if generators and room >= 0:
            inputs = {name: generator.to_dict() for name, generator in generators.items()}
            stored.append({"inputs": inputs, "embeddings": base64.b64encode(embeddings).decode("ascii")})
    return stored


def load_probes(
    metadata: dict[str, Any], names: Sequence[str], dimension: int, path: object
) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Return inputs by name and expected embeddings, read from the metadata of the file at `path`.

    Raises:
        ModelFileError: there are none, or they are not what `dump_probes` writes.
    """
    try:
        probes = [_load_probe(entry, names, dimension) for entry in metadata.get("probes", ())]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ModelFileError(
            f"Expected probe rows as export_onnx writes them. Received: {path} with {type(error).__name__}: {error}. "
            f"Export again."
        ) from error
    if not probes:
        raise ModelFileError(
            f"Expected a file with probe rows. Received: {path} without. Export the model again; one that takes no "
            f"synthetic rows has none: compare with verify_onnx(path, model, samples)."
        )
    return probes


def _load_probe(entry: Any, names: Sequence[str], dimension: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    generators = {name: Generator.from_dict(entry["inputs"][name]) for name in names}
    rows = {generator.shape[0] for generator in generators.values()}
    embeddings = np.frombuffer(base64.b64decode(entry["embeddings"], validate=True), "<f4").reshape(-1, dimension)
    if rows != {len(embeddings)} or not np.isfinite(embeddings).all():
        raise ValueError(f"{len(embeddings)} finite embeddings of {sorted(rows)} rows")
    return {name: generator.rows() for name, generator in generators.items()}, embeddings
