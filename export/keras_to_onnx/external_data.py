"""Keep weights that exceed one protobuf message out of the conversion, and store them in a data file.

The trace reads such a weight as an additional input, so TensorFlow, tf2onnx and the ONNX model never hold it.
Afterwards the input becomes a tensor whose values are in the data file. The largest weights are moved first, so that
few have to be.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    import keras
    import onnx
    import tensorflow as tf

_PREFIX = "keras_tfcl_weight_"
_PAGE = 4096  # onnxruntime maps tensors that begin on a page instead of copying them


@dataclass(frozen=True)
class DataFile:
    """The metadata about the data file."""

    name: str
    bytes: int
    sha256: str

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def choose_external(weights: Sequence[keras.Variable], most_bytes: int) -> list[keras.Variable]:
    """Return the largest weights, as few as possible, so that the others have at most `most_bytes` bytes."""
    as_dtype = require("tensorflow", "tf").as_dtype
    sizes = {id(weight): math.prod(weight.shape) * as_dtype(weight.dtype).size for weight in weights}
    total, chosen = sum(sizes.values()), []
    for weight in sorted(weights, key=lambda weight: -sizes[id(weight)]):
        if total <= most_bytes:
            break
        chosen.append(weight)
        total -= sizes[id(weight)]
    return chosen


def external_specs(weights: Sequence[keras.Variable]) -> list[tf.TensorSpec]:
    """Return the `tf.TensorSpec` of each weight as an input of the trace."""
    tf = require("tensorflow", "tf")
    return [tf.TensorSpec(weight.shape, weight.dtype, name=_PREFIX + str(i)) for i, weight in enumerate(weights)]


def reading_from(weights: Sequence[keras.Variable], tensors: Sequence[tf.Tensor]) -> keras.StatelessScope:
    """Return a context in which Keras layers read `tensors` instead of `weights`."""
    return require("keras", "tf").StatelessScope(state_mapping=list(zip(weights, tensors, strict=True)))


def inputs_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn the inputs of an ONNX graph that represent weights into tensors without values."""
    for value in [value for value in graph.input if value.name.startswith(_PREFIX)]:
        kind = value.type.tensor_type
        dims = [dim.dim_value for dim in kind.shape.dim]
        graph.initializer.add(name=value.name, data_type=kind.elem_type, dims=dims)
        graph.input.remove(value)


def store_external(model_path: Path, onnx_model: onnx.ModelProto, weights: Sequence[keras.Variable]) -> DataFile:
    """Write the values of external weights to a file beside the model, and make the model refer to it."""
    record, spans = write_data_file(model_path.parent, model_path.name, (weight.numpy() for weight in weights))
    stored = {tensor.name: tensor for tensor in onnx_model.graph.initializer if tensor.name.startswith(_PREFIX)}
    for position, (offset, length) in enumerate(spans):
        tensor = stored[_PREFIX + str(position)]
        tensor.data_location = tensor.EXTERNAL
        for key, value in (("location", record.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    return record


def write_data_file(folder: Path, stem: str, arrays: Iterable[np.ndarray]) -> tuple[DataFile, list[tuple[int, int]]]:
    """Write `arrays` one after the other; return the record, and offset and length of each.

    The name follows from the content, so a new data file never overwrites the one of an older model.
    """
    draft = folder / f"{stem}.data"
    digest, spans = hashlib.sha256(), []
    with draft.open("wb") as file:
        for array in arrays:
            padding = -file.tell() % _PAGE
            digest.update(bytes(padding))
            file.write(bytes(padding))
            content = byte_view(array)
            spans.append((file.tell(), len(content)))
            digest.update(content)
            file.write(content)
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    record = DataFile(f"{stem}.{digest.hexdigest()[:16]}.data", size, digest.hexdigest())
    os.replace(draft, folder / record.name)
    return record, spans


def byte_view(array: np.ndarray) -> memoryview:
    """Return the values as little-endian bytes, without a copy on a little-endian machine."""
    values = np.ascontiguousarray(array)
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return values.reshape(-1).view(np.uint8).data
