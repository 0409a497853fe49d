"""Golden inputs: a few synthetic samples with the embeddings that the Keras model computed for them.

A file stores their generators, so that any machine can check that it computes the same embeddings: on a GPU with
coarser rounding, with another onnxruntime, or after a tool has changed the graph. Needs only NumPy and onnxruntime.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keras_tfcl.export.errors import ModelFileError
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.metadata import GoldenBatch, Metadata
from keras_tfcl.export.runtime.parity import Parity, compare

_MOST_GENERATED = 1 << 28  # bytes that a file from elsewhere may make a reader allocate
_MOST_STORED = 1 << 17  # bytes of the embeddings in one file, so that the metadata stay small


@dataclass(frozen=True)
class Generator:
    """Uniform values in [low, high) of one input; a row of integers begins with 1, so that it is not padding alone.

    `RandomState` is used because NumPy froze its stream: all versions give the same numbers (NEP 19).
    """

    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float
    seed: int

    def rows(self) -> np.ndarray:
        """Return the rows, an array of `shape` and `dtype`."""
        generator = np.random.RandomState(self.seed)
        if np.dtype(self.dtype).kind == "f":
            return generator.uniform(self.low, self.high, self.shape).astype(self.dtype)
        rows = generator.randint(int(self.low), int(self.high), self.shape)
        if rows.ndim > 1:
            rows[:, :1] = min(1, int(self.high) - 1)
        return rows.astype(self.dtype)

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Generator:
        """Read what `to_dict` wrote.

        Raises:
            ValueError, TypeError, KeyError: it is something else, or asks for more than 256 MiB.
        """
        shape = tuple(int(size) for size in content["shape"])
        dtype = np.dtype(str(content["dtype"]))
        if dtype.kind not in "biuf" or len(shape) > 8 or min(shape, default=0) < 1:
            raise ValueError(f"rows of shape {shape} and dtype {dtype}")
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size > _MOST_GENERATED:
            raise ValueError(f"rows of {size} bytes")
        return cls(dtype.name, shape, float(content["low"]), float(content["high"]), int(content["seed"]))


def check_probes(path: str | os.PathLike[str], providers: str | Sequence[str] = "auto") -> Parity:
    """Compare what an exported file computes here with the embeddings that its Keras model gave.

    Args:
        path: a file written by `export_onnx`.
        providers: as in `OnnxEncoder`.

    Returns:
        The differences. `passed` says whether they are within the tolerance of an export; a GPU that rounds to TF32
        or a quantized file may be outside.

    Raises:
        ModelFileError: the file holds no golden inputs: another tool wrote it, or its model needed real samples.

    Example:

    >>> check_probes("encoder.onnx", providers="cuda").passed       # doctest: +SKIP
    True
    """
    return check_golden_inputs(OnnxEncoder(path, providers=providers))


def check_golden_inputs(encoder: OnnxEncoder) -> Parity:
    """Do what `check_probes` does, with an encoder that is open already."""
    names = [spec.name for spec in encoder.inputs]
    golden = load_golden_inputs(encoder.metadata, names, encoder.dimension, encoder.path)
    return Parity.worst(
        [compare(reference, encoder.encode(inputs, batch_size=len(reference))) for inputs, reference in golden]
    )


def dump_golden_inputs(probes: Sequence[tuple[dict[str, Generator], np.ndarray]]) -> list[GoldenBatch]:
    """Return generators and embeddings as JSON, as many of `probes` as are small enough."""
    stored: list[GoldenBatch] = []
    room = _MOST_STORED
    for generators, reference in probes:
        embeddings = reference.astype("<f4").tobytes()
        room -= len(embeddings)
        if generators and room >= 0:
            inputs = {name: generator.to_dict() for name, generator in generators.items()}
            stored.append({"inputs": inputs, "embeddings": base64.b64encode(embeddings).decode("ascii")})
    return stored


def load_golden_inputs(
    metadata: Metadata, names: Sequence[str], dimension: int, path: object
) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Return inputs by name and expected embeddings, read from the metadata of the file at `path`.

    Raises:
        ModelFileError: there are none, or they are not what `dump_golden_inputs` writes.
    """
    try:
        probes = [_load_batch(entry, names, dimension) for entry in metadata.get("probes", ())]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ModelFileError(
            f"Expected golden inputs as export_onnx writes them. Received: {path} with {type(error).__name__}: "
            f"{error}. Export again."
        ) from error
    if not probes:
        raise ModelFileError(
            f"Expected a file with golden inputs. Received: {path}, which has none. Export the model "
            f"again. A model that accepts no synthetic samples has none: use verify_onnx(path, model, samples)."
        )
    return probes


def _load_batch(entry: GoldenBatch, names: Sequence[str], dimension: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    generators = {name: Generator.from_dict(entry["inputs"][name]) for name in names}
    rows = {generator.shape[0] for generator in generators.values()}
    embeddings = np.frombuffer(base64.b64decode(entry["embeddings"], validate=True), "<f4").reshape(-1, dimension)
    if rows != {len(embeddings)} or not np.isfinite(embeddings).all():
        raise ValueError(f"{len(embeddings)} finite embeddings of {sorted(rows)} rows")
    return {name: generator.rows() for name, generator in generators.items()}, embeddings
