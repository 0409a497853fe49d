from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_tfcl.models.memory import InBatch
from keras_tfcl.ops import replicas
from keras_tfcl.ops.candidates import Candidates
from keras_tfcl.ops.masks import as_labels
from keras_tfcl.ops.similarity import l2_normalize
from keras_tfcl.typing import Structure, Tensor, TensorLike


class InstanceBank(keras.layers.Layer):
    """One stored embedding for each instance of the data set, a moving average over the steps that saw it.

    Each view of instance i is compared with the whole bank: entry i is its positive, all others are negatives. After
    the step `entry <- l2(m * entry + (1 - m) * mean of its views)`. The first step that sees an instance stores it
    before comparing; instances never seen are not compared. Entries are weights without gradient, saved with the model.

    Args:
        size: number of instances; they are numbered 0 to size - 1.
        features: size of an embedding.
        momentum: m, in [0, 1).
        **kwargs: of `keras.layers.Layer`.

    References: Wu et al. 2018, arXiv 1805.01978 (m = 0.5); Wang and Liu 2021, arXiv 2012.09740.
    """

    def __init__(self, size: int, features: int, momentum: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.size, self.momentum = size, momentum
        state = {"initializer": "zeros", "trainable": False, "autocast": False}
        self.entries = self.add_weight(name="entries", shape=(size, features), dtype="float32", **state)
        self.seen = self.add_weight(name="seen", shape=(size,), dtype="bool", **state)
        self.built = True

    def numbers(self, count: int, y: TensorLike | None) -> np.ndarray:
        """The numbers of an array's samples; raises ValueError if there are too many, or y was given besides."""
        if y is not None:
            raise ValueError(
                "Arrays are numbered by themselves for a memory bank. Received: y. Leave y out; labels for an "
                "evaluation go to callbacks such as KNNEvaluation."
            )
        if count > self.size:
            raise ValueError(
                "The memory bank must have an entry for each instance. Received: "
                f"{count} rows for queue_size={self.size}. Pass queue_size={count}."
            )
        return np.arange(count)

    def check_numbers(self, y: TensorLike | None) -> None:
        """Raises ValueError for numbers without an entry; in a graph `tf.errors.InvalidArgumentError`."""
        numbers = as_labels(y)
        text = (
            "`y` must hold the number of each instance, 0 to queue_size - 1, for the memory bank. Received: a number "
            f"outside 0 to {self.size - 1}. Number the instances by Dataset.enumerate(), and pass queue_size=len(x)."
        )
        within = tf.reduce_all((numbers >= 0) & (numbers < self.size))
        if not tf.executing_eagerly():
            tf.debugging.Assert(within, [text])
        elif not within:
            raise ValueError(text)

    def checked(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The same data set, with a check of the numbers of each batch."""

        def check(*batch: Structure) -> Structure:
            y = keras.utils.unpack_x_y_sample_weight(batch)[1]
            if y is not None:
                self.check_numbers(y)
            return batch

        return dataset.map(check)

    def candidates(
        self, labels: Tensor, z: Tensor, views: tuple[Structure, ...] | None, training: bool
    ) -> Candidates | None:
        """The bank as it is compared with a batch, whose labels are instance numbers.

        The instances of an evaluation have no entries: their views are compared with one another.
        """
        if not training:
            return InBatch().candidates(labels, z, views, training)
        batch = self._batch(labels, z)
        return Candidates(
            ops.scatter_update(self.entries, batch.slots, batch.entries),
            ops.arange(self.size, dtype="int64"),
            mask=ops.scatter_update(self.seen, batch.slots, ops.ones_like(batch.slots[:, 0], "bool")),
        )

    def update(self, labels: Tensor, z: Tensor, candidates: Candidates | None) -> None:
        """Moves the entries of a batch's instances, of all replicas."""
        batch = self._batch(labels, z)
        moved = l2_normalize(self.momentum * batch.entries + (1.0 - self.momentum) * batch.current)
        self.entries.assign(ops.scatter_update(self.entries, batch.slots, moved))
        self.seen.assign(ops.scatter_update(self.seen, batch.slots, ops.ones_like(batch.slots[:, 0], "bool")))

    def check_batch(self, size: int | None, views: int) -> None:
        """Takes any batch."""

    def _batch(self, numbers: Tensor, z: Tensor) -> _Batch:
        current = ops.stop_gradient(l2_normalize(ops.mean(l2_normalize(z), axis=1)))
        current, numbers = replicas.gather(current, numbers)
        known = ops.expand_dims(ops.take(self.seen, numbers, axis=0), 1)
        entries = ops.where(known, ops.take(self.entries, numbers, axis=0), current)
        return _Batch(ops.expand_dims(numbers, 1), entries, current)


class _Batch(NamedTuple):
    slots: Tensor  # (B, 1), numbers of the instances
    entries: Tensor  # (B, D), what the bank holds of them; of new ones what it will
    current: Tensor  # (B, D), unit means of their views now
