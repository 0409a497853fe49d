"""The types that the library's signatures share.

Keras and TensorFlow ship no types, so that a type checker reads both names as `Any`, but a reader does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import keras
import numpy as np
import tensorflow as tf

# One tensor of TensorFlow, or its symbol while Keras builds a functional model.
Tensor: TypeAlias = tf.Tensor | keras.KerasTensor
# What `keras.ops.convert_to_tensor` takes: a tensor, an array, a variable, or nested lists of numbers.
TensorLike: TypeAlias = Tensor | tf.Variable | keras.Variable | np.typing.ArrayLike
# Tensors in tuples, lists and dictionaries, as models of several inputs take them: Keras' nested structures.
Structure: TypeAlias = TensorLike | Sequence["Structure"] | Mapping[str, "Structure"]
# A structure that comes out as it went in, with other tensors.
SameStructure = TypeVar("SameStructure", bound=Structure)
# What brings batches, each x, (x, y) or (x, y, sample_weight).
BatchSource: TypeAlias = tf.data.Dataset | keras.utils.PyDataset | Iterator[Structure]
# What `fit` takes: samples, or what brings batches of them.
DataSource: TypeAlias = Structure | BatchSource


@runtime_checkable
class SeededAugmenter(Protocol):
    """What makes a view of each sample of a batch from an int32 seed `(2,)`."""

    def augment(self, x: Structure, seed: Tensor) -> Structure: ...


# A Keras layer or a function from a batch to a batch of random views, or an object that draws from a seed.
Augmenter: TypeAlias = Callable[..., Structure] | SeededAugmenter
# Samples with their labels: a pair, or a data set of pairs.
LabelledData: TypeAlias = tuple[Structure, np.typing.ArrayLike] | tf.data.Dataset
# A loss, its name or what computes one.
Loss: TypeAlias = str | keras.losses.Loss | Callable[[Tensor, Tensor], Tensor]
# What `dtype=` takes.
DType: TypeAlias = str | keras.dtype_policies.DTypePolicy
# Metrics or their names, alone or in lists and dictionaries as `compile` takes them.
Metrics: TypeAlias = str | keras.metrics.Metric | Sequence["Metrics"] | Mapping[str, "Metrics"]
# What `get_config` returns: numbers, strings, and lists and dictionaries of them.
Config: TypeAlias = dict[str, object]
# What Keras hands to callbacks: the means of an epoch or a batch by name.
Logs: TypeAlias = dict[str, float]


class WeightStore(Protocol):
    """What Keras gives a layer to save its variables in, and to load them from."""

    def __getitem__(self, name: str) -> TensorLike: ...
    def __setitem__(self, name: str, value: TensorLike) -> None: ...
    def keys(self) -> Iterable[str]: ...
