"""A Keras encoder, with or without its projector, as one function of its inputs in float32.

A model of another precision computes in float32 during the export: each layer keeps its weights and temporarily has the
policy float32, so that a model trained in mixed precision becomes a file that runs everywhere. Rebuilding the model
from its configuration would lose state that no configuration holds, and would fail for a subclassed model without one.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from keras_tfcl._keras_compat import dtype_policy, inner_layers, nested_layers, set_dtype_policy, set_variable_dtype
from keras_tfcl.export.errors import ModelInputError
from keras_tfcl.export.keras_to_onnx.external_data import byte_view
from keras_tfcl.export.runtime.inputs import InputSpec
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.runtime.typing import Inputs

if TYPE_CHECKING:
    import keras

    from keras_tfcl.typing import Structure, Tensor

OUTPUT = "embedding"
HALF = ("float16", "bfloat16")
_LOCK = threading.RLock()  # the policies belong to the model, the switches of the trace to the whole process
_NUMERIC = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")
_AUTOMATIC = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?")


@dataclass(frozen=True)
class Source:
    """Keras layers called one after the other in inference mode, and the inputs that the file will have.

    `stages` are the preprocessing, the encoder and the projector, as far as they are exported. `structure` is nested as
    the first layer's argument, and `dtypes` are those it takes its inputs in. `projector` is "kept", "dropped" or
    "none".
    """

    encoder: keras.Model
    stages: tuple[keras.Layer, ...]
    inputs: tuple[InputSpec, ...]
    structure: Structure
    dtypes: tuple[str, ...]
    projector: str

    def __call__(self, *tensors: Tensor) -> Structure:
        keras = require("keras", "tf")
        cast = [keras.ops.cast(tensor, dtype) for tensor, dtype in zip(tensors, self.dtypes, strict=True)]
        outputs = keras.tree.pack_sequence_as(self.structure, cast)
        for stage in self.stages:
            outputs = stage(outputs, training=False)
        return outputs

    def with_batch(self, size: int | None) -> Source:
        """The same with another batch in the file: a number, or None for a free one."""
        return replace(self, inputs=tuple(replace(spec, shape=(size, *spec.shape[1:])) for spec in self.inputs))

    @property
    def layers(self) -> list[keras.Layer]:
        """Every layer at every depth, once, in the order of its model. Keras' own walk reverses nested layers."""
        found: dict[int, keras.Layer] = {}

        def visit(layer: keras.Layer) -> None:
            if id(layer) not in found:
                found[id(layer)] = layer
                for inner in inner_layers(layer):
                    visit(inner)

        for stage in self.stages:
            visit(stage)
        return list(found.values())

    @property
    def weights(self) -> list[keras.Variable]:
        """Weights in the order that Keras gives them, without seeds, metrics and optimizer."""
        return [weight for stage in self.stages for weight in stage.weights]


def read_source(
    model: keras.Model,
    *,
    projector: bool,
    samples: Inputs | None = None,
    preprocessing: keras.Layer | None = None,
    input_dtype: str | None = None,
) -> Source:
    """Find the layers to export and the inputs they take.

    Args:
        model: a `keras.Model`, or a `ContrastiveModel`, of which the encoder is exported.
        projector: whether to keep the projector after the encoder.
        samples: samples of input, used if the model does not know its inputs.
        preprocessing: a layer or model to run before the encoder.
        input_dtype: dtype of float inputs in the file.

    Raises:
        TypeError: `model` is not a Keras model, or `preprocessing` not a layer.
        ValueError: the model has no projector although `projector` is True, or no float inputs for `input_dtype`.
        ModelInputError: the inputs are unknown, or ONNX cannot represent them.
    """
    keras = require("keras", "tf")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Export needs the TensorFlow backend of Keras. Received: {keras.backend.backend()!r}. "
            f"Save the model, set KERAS_BACKEND=tensorflow in a new process, and load it there."
        )
    encoder, head, state = _split_model(keras, model, projector)
    if preprocessing is not None and not isinstance(preprocessing, keras.Layer):
        raise TypeError(
            f"`preprocessing` must be a Keras layer or model. Received: {type(preprocessing).__name__}. "
            f"Use for example keras.layers.Rescaling(1 / 255)."
        )
    first = preprocessing if getattr(preprocessing, "inputs", None) else encoder
    structure, tensors = _input_tensors(keras, first, samples)
    for tensor in tensors:
        _check_input(tensor)
    names, dtypes = _public_names(tensors), _file_dtypes(tensors, input_dtype)
    inputs = tuple(
        InputSpec(name, dtype, (None, *tensor.shape[1:]))
        for name, dtype, tensor in zip(names, dtypes, tensors, strict=True)
    )
    stages = tuple(stage for stage in (preprocessing, encoder, head) if stage is not None)
    return Source(encoder, stages, inputs, structure, tuple(tensor.dtype for tensor in tensors), state)


def _split_model(keras: ModuleType, model: keras.Model, projector: bool) -> tuple[keras.Model, keras.Layer | None, str]:
    """Return the encoder, the projector to keep or None, and "kept", "dropped" or "none" for the projector."""
    models = sys.modules.get("keras_tfcl.models")  # whoever made a ContrastiveModel has imported it
    if models is None or not isinstance(model, models.ContrastiveModel):
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"`model` must be a keras.Model. Received: {type(model).__name__}. "
                f"Wrap a layer as keras.Sequential([keras.Input(shape), layer])."
            )
        if projector:
            raise ValueError(
                f"`projector=True` needs a ContrastiveModel. Received: {type(model).__name__}, which is exported as "
                f"model(x). Export with projector=False."
            )
        return model, None, "none"
    if isinstance(model.encoder, (tuple, list)):
        raise TypeError(
            f"`model` must have one encoder. Received: {len(model.encoder)} of them. Export each by itself: "
            f"export_onnx(model.encoder[0], path)."
        )
    if not isinstance(model.encoder, keras.Model):
        raise TypeError(
            f"The encoder must be a keras.Model. Received: {type(model.encoder).__name__}. Wrap the layer and export "
            f"it: export_onnx(keras.Sequential([keras.Input(shape), model.encoder]), path)."
        )
    if projector and model.projector is None:
        raise ValueError(
            "`projector=True` needs a model with a projector. Received: a ContrastiveModel with projector=None. "
            "Export with projector=False."
        )
    state = "none" if model.projector is None else "kept" if projector else "dropped"
    return model.encoder, model.projector if projector else None, state


def _input_tensors(
    keras: ModuleType, encoder: keras.Model, samples: Inputs | None
) -> tuple[Structure, list[InputSpec]]:
    declared = getattr(encoder, "inputs", None)
    if declared:
        structure = declared[0] if isinstance(encoder, keras.Sequential) else encoder.input
        tensors = [
            InputSpec(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in keras.tree.flatten(structure)
        ]
        return structure, _rename_by_key(keras, structure, tensors)
    if samples is not None:
        arrays = samples if _is_several(samples) else np.asarray(samples)
        structure = keras.tree.map_structure(lambda value: _as_tensor(np.asarray(value)), arrays)
        return structure, _rename_by_key(keras, structure, keras.tree.flatten(structure))
    return _tensor_of_build(encoder)


def _rename_by_key(keras: ModuleType, structure: Structure, tensors: list[InputSpec]) -> list[InputSpec]:
    """Name the inputs of a flat dict by its keys, because callers use them, and not by their tensors."""
    if not isinstance(structure, Mapping) or len(structure) != len(tensors):
        return tensors
    keys = keras.tree.flatten({key: key for key in structure})  # Keras flattens a dict in its own order
    return [replace(tensor, name=key) for key, tensor in zip(keys, tensors, strict=True)]


def _tensor_of_build(encoder: keras.Model) -> tuple[Structure, list[InputSpec]]:
    """Read the shape that a subclassed model was built with. It records no dtype, which only token ids need."""
    shape = (encoder.get_build_config() or {}).get("input_shape") if encoder.built else None
    is_one = isinstance(shape, (tuple, list)) and all(dim is None or isinstance(dim, int) for dim in shape)
    takes_ids = any(type(layer).__name__ == "Embedding" for layer in nested_layers(encoder))
    if not shape or not is_one or takes_ids:
        raise ModelInputError(
            f"The inputs of the model must be known. Received: {type(encoder).__name__} `{encoder.name}`, which does "
            f"not declare their shapes and dtypes. Give `samples`, a few rows of input; or wrap it: "
            f"x = keras.Input(shape, dtype=...); keras.Model(x, model(x))."
        )
    dtype = "float32" if encoder.input_dtype in HALF else encoder.input_dtype
    tensor = InputSpec("input", dtype, tuple(shape))
    return tensor, [tensor]


def _is_several(samples: object) -> bool:
    return isinstance(samples, Mapping) or (
        isinstance(samples, (tuple, list)) and bool(samples) and all(hasattr(value, "shape") for value in samples)
    )


def _as_tensor(array: np.ndarray) -> InputSpec:
    dtype = "float32" if array.dtype == np.float64 else array.dtype.name
    return InputSpec("input", dtype, array.shape)


def _check_input(tensor: InputSpec) -> None:
    if not _NUMERIC.fullmatch(str(tensor.dtype)):
        raise ModelInputError(
            f"Inputs must be numeric, bool, or float16 to float64. Received: input `{tensor.name}` of dtype "
            f"{tensor.dtype}. Tokenise or convert outside the model and take numbers in."
        )
    if not tensor.shape:
        raise ModelInputError(
            f"Inputs must have a batch dimension. Received: input `{tensor.name}` of shape (). Give one row per item."
        )


def _file_dtypes(tensors: Sequence[InputSpec], input_dtype: str | None) -> list[str]:
    if input_dtype is None:
        return [tensor.dtype for tensor in tensors]
    dtypes = [input_dtype if "float" in tensor.dtype else tensor.dtype for tensor in tensors]
    if input_dtype not in dtypes or not _NUMERIC.fullmatch(str(input_dtype)):
        raise ValueError(
            f"`input_dtype` must be the numeric type that float inputs get in the file. Received: "
            f"input_dtype={input_dtype!r} for inputs of types {[tensor.dtype for tensor in tensors]}. "
            f'Use "uint8" for pixels, or leave it out.'
        )
    return dtypes


def _public_names(tensors: Sequence[InputSpec]) -> list[str]:
    """Return names that do not change between runs: by kind for one input, the user's names for several."""
    if len(tensors) == 1:
        rank, integer = len(tensors[0].shape), "int" in tensors[0].dtype
        return ["image" if rank == 4 else "tokens" if rank == 2 and integer else "features"]
    safe: list[str] = []
    for position, name in enumerate(tensor.name for tensor in tensors):
        clean = f"input_{position}" if _AUTOMATIC.fullmatch(name) else re.sub(r"\W", "_", name, flags=re.ASCII)
        taken = clean in safe or clean == OUTPUT or not clean
        safe.append(f"{clean}_{position}" if taken else clean)
    return safe


def hash_weights(weights: Sequence[keras.Variable]) -> str:
    """Return the SHA-256 of the dtypes, shapes and values of `weights` in order.

    Equal weights have equal hashes in every process and after saving and loading. A hash of the file would differ
    between two exports of one model.
    """
    digest = hashlib.sha256()
    for weight in weights:
        values = weight.numpy()
        digest.update(f"{values.dtype.name}{values.shape}".encode())
        digest.update(byte_view(values))
    return digest.hexdigest()


class Precision:
    """The layers of a model that compute in half precision, with the policies they were built with."""

    def __init__(self, layers: Iterable[keras.Layer]) -> None:
        self._own = [(layer, dtype_policy(layer)) for layer in layers if layer.compute_dtype in HALF]

    @property
    def policies(self) -> list[str]:
        """Names such as "mixed_float16"; none for a model that computes in float32."""
        return sorted({policy.name for _, policy in self._own})

    def use_float32(self) -> None:
        for layer, _ in self._own:
            # not the public setter, which would write into a policy map that layers share
            set_dtype_policy(layer, _computing_in("float32", layer))

    def use_own(self) -> None:
        for layer, policy in self._own:
            set_dtype_policy(layer, policy)


@contextlib.contextmanager
def computing_in_float32(layers: Iterable[keras.Layer]) -> Iterator[Precision]:
    """Make half-precision layers compute in float32 inside the block. Other threads wait until it ends."""
    with _LOCK:
        precision = Precision(layers)
        try:
            precision.use_float32()
            yield precision
        finally:
            precision.use_own()


@contextlib.contextmanager
def computing_in_float64(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Make all layers compute in float64 inside the block."""
    own = [(layer, dtype_policy(layer)) for layer in layers]
    for layer, _ in own:
        set_dtype_policy(layer, _computing_in("float64", layer))
    try:
        yield
    finally:
        for layer, policy in own:
            set_dtype_policy(layer, policy)


@contextlib.contextmanager
def computing_as_built(precision: Precision) -> Iterator[None]:
    """Restore the original policies inside the block."""
    precision.use_own()
    try:
        yield
    finally:
        precision.use_float32()


def _computing_in(dtype: str, layer: keras.Layer) -> keras.dtype_policies.DTypePolicy:
    get = require("keras", "tf").dtype_policies.get
    policy = get(f"{layer.quantization_mode}_from_{dtype}" if layer.quantization_mode else dtype)
    set_variable_dtype(policy, layer.variable_dtype)  # so that Keras casts the weights of a policy such as float16
    return policy
