"""All private names of Keras and TensorFlow that are used, each with the reason and the versions it was seen in.

A private name may change in any release without notice. Then this is the only file to change, because a test ensures
that no other module of the library uses one. The module loads neither Keras nor TensorFlow, so that the export, which
must load without them, can use it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

ModelClass = TypeVar("ModelClass", bound="type[keras.Model]")


def nested_layers(layer: keras.Layer) -> list[keras.Layer]:
    """The layer itself and every layer inside it, at every depth.

    `_flatten_layers`: `Model.layers` lists one level only, and other layers have no public list. Seen in Keras 3.12 to
    3.15.
    """
    return list(layer._flatten_layers())


def inner_layers(layer: keras.Layer) -> list[keras.Layer]:
    """The layers directly inside a layer, in the order in which they were added.

    `_layers`: `Model.layers` lacks the layers of a layer that is not a model. Seen in Keras 3.12 to 3.15.
    """
    return list(layer._layers)


@contextmanager
def unlocked(layer: keras.Layer) -> Iterator[None]:
    """Lets a built layer take new sublayers, metrics and variables inside the block.

    `_tracker`: losses and metrics of `compile` must be tracked after the model is built, when Keras refuses new parts.
    Seen in Keras 3.12 to 3.15.
    """
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._tracker.lock()


def batches_seen(optimizer: keras.optimizers.Optimizer) -> int:
    """The number of batches an optimizer has seen, also where it accumulates or skips their gradients.

    `_iterations`: the public `iterations` counts updates, of which gradient accumulation makes one in several batches.
    Seen in Keras 3.12 to 3.15.
    """
    both = optimizer, getattr(optimizer, "inner_optimizer", optimizer)
    return max(int(each._iterations.numpy()) for each in both)  # under tf.distribute int() alone fails


def count_batch(optimizer: keras.optimizers.Optimizer) -> None:
    """Counts a batch for `batches_seen`, after its gradients were applied.

    `_iterations`: a `LossScaleOptimizer` leaves the counting to its inner optimizer, which does not see the batches
    whose scaled gradients overflow. Its own counter is saved, but not used. Seen in Keras 3.12 to 3.15.
    """
    if hasattr(optimizer, "inner_optimizer"):
        optimizer._iterations.assign_add(1)


def builds_from_one_replica(model_class: ModelClass) -> ModelClass:
    """Class decorator: with several replicas, Keras does not build the model from their averaged batch.

    `_maybe_symbolic_build`: the average casts labels to float and fails. The model must be built beforehand. Seen in
    Keras 3.12 to 3.15.
    """
    build = model_class._maybe_symbolic_build

    def maybe_symbolic_build(self: keras.Model, *args: Any, **kwargs: Any) -> None:
        if self.distribute_strategy.num_replicas_in_sync == 1:
            build(self, *args, **kwargs)

    model_class._maybe_symbolic_build = maybe_symbolic_build
    return model_class


def dtype_policy(layer: keras.Layer) -> keras.dtype_policies.DTypePolicy:
    """The policy that a layer computes with, and not the map of policies that it may share with other layers.

    `_dtype_policy`: goes with `set_dtype_policy`. Seen in Keras 3.12 to 3.15.
    """
    return layer._dtype_policy


def set_dtype_policy(layer: keras.Layer, policy: keras.dtype_policies.DTypePolicy) -> None:
    """Gives a policy to one layer.

    `_dtype_policy`: the public setter writes into a policy map that layers share. Seen in Keras 3.12 to 3.15.
    """
    layer._dtype_policy = policy


def set_variable_dtype(policy: keras.dtype_policies.DTypePolicy, dtype: str) -> None:
    """Says what dtype the weights have that a layer with this policy casts to its compute dtype.

    `_variable_dtype`: no name of a policy says "float16 weights, float32 computation". Seen in Keras 3.12 to 3.15.
    """
    policy._variable_dtype = dtype


def leave_out_of_weight_decay(optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> None:
    """Excludes these variables from weight decay, in addition to the variables that the user has excluded.

    `_exclude_from_weight_decay`: the public `exclude_from_weight_decay` forgets what a user told it before, and refuses
    once the optimizer is built. `_exclude_from_weight_decay_cache`: holds what was decided before. `_var_key`: how the
    optimizer names a variable, which depends on the strategy. Seen in Keras 3.15.1.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    told: set[str] = getattr(inner, "_exclude_from_weight_decay", set())
    inner._exclude_from_weight_decay = {*told, *(inner._var_key(variable) for variable in variables)}
    inner._exclude_from_weight_decay_cache = {}


def graphs_of_dataset(dataset: tf.data.Dataset) -> Iterator[tf.compat.v1.GraphDef]:
    """The graph of each function that a data set maps, filters or flat-maps with, and of the data sets that it reads.

    `_functions`: the public way to see them is a serialised graph, which holds a copy of the data. `_inputs`: has no
    public name. Seen in Keras 3.15 with TensorFlow 2.21.
    """
    for function in dataset._functions():
        yield function.function.graph.as_graph_def()
    for source in dataset._inputs():
        yield from graphs_of_dataset(source)


def name_losses(classes: Mapping[str, type[keras.losses.Loss]]) -> None:
    """Makes `keras.losses.get`, and with it every `compile`, know these names of losses.

    `ALL_OBJECTS_DICT`: Keras looks names up in this table of its module `keras.src.losses`, and in no public one. Seen
    in Keras 3.12 to 3.15.
    """
    import keras

    sys.modules[keras.losses.get.__module__].ALL_OBJECTS_DICT.update(classes)


def gpu_memory() -> int:
    """The bytes that TensorFlow may use of the smallest GPU.

    `tensorflow.python.client`: no public name tells a GPU's memory before it is used. Seen in Keras 3.15 with
    TensorFlow 2.21.
    """
    from tensorflow.python.client import device_lib

    return min(device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU")


@cache
def xla_dot(
    transpose_a: bool, transpose_b: bool, dtype: tf.DType, highest: bool = False
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The product of two matrices, summed in `dtype`; `highest` keeps a GPU from rounding float32 to TF32.

    `tensorflow.compiler.tf2xla.ops.gen_xla_ops`: `tf.matmul` has no such choices, and TF32 has one switch for the whole
    process, which is read when a program is compiled. `tensorflow.compiler.xla`: the types of its arguments.
    Outside of XLA the product is compiled by itself. Seen in Keras 3.15 with TensorFlow 2.21.
    """
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_dot_v2
    from tensorflow.compiler.xla import xla_data_pb2

    dimensions = xla_data_pb2.DotDimensionNumbers(
        lhs_contracting_dimensions=[0 if transpose_a else 1], rhs_contracting_dimensions=[1 if transpose_b else 0]
    ).SerializeToString()
    level = xla_data_pb2.PrecisionConfig.HIGHEST if highest else xla_data_pb2.PrecisionConfig.DEFAULT
    precision = xla_data_pb2.PrecisionConfig(operand_precision=[level, level]).SerializeToString()

    @tf.function(jit_compile=True, autograph=False, reduce_retracing=True)
    def dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return xla_dot_v2(a, b, dimensions, precision, preferred_element_type=dtype)

    return dot
