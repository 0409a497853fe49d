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
    """Stores one embedding for each sample of the data set, a moving average over the steps that contained it.

    Each view of sample i is compared with the whole bank: slot i is its positive, and all other slots are negatives.
    After the step the slot is updated by `slot <- l2(m * slot + (1 - m) * mean of its views)`. The first step that
    contains a sample initialises its slot before the comparison. Slots that are not initialised are masked. The
    embeddings are weights without a gradient, and are saved with the model.

    Args:
        size: number of samples; their slots are 0 to size - 1.
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
        self.initialised = self.add_weight(name="initialised", shape=(size,), dtype="bool", **state)
        self.built = True

    def begin(self) -> None:
        """Does nothing."""

    def numbers(self, count: int, y: TensorLike | None) -> np.ndarray:
        """The slots of the samples of an array; raises ValueError if there are too many, or if y is given as well."""
        if y is not None:
            raise ValueError(
                "The samples of arrays are numbered automatically for an instance bank. Received: y. Leave y out, and "
                "pass labels for evaluation to callbacks such as KNNEvaluation."
            )
        if count > self.size:
            raise ValueError(
                "The instance bank must have a slot for each sample. Received: "
                f"{count} samples for queue_size={self.size}. Pass queue_size={count}."
            )
        return np.arange(count)

    def check_numbers(self, y: TensorLike | None) -> None:
        """Raises ValueError for numbers without a slot; in a graph `tf.errors.InvalidArgumentError`."""
        numbers = as_labels(y)
        text = (
            "`y` must hold the number of each sample, 0 to queue_size - 1, for the instance bank. Received: a number "
            f"outside 0 to {self.size - 1}. Number the samples with Dataset.enumerate(), and pass queue_size=len(x)."
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
        """The slots that a batch is compared with; the labels of the batch are slots.

        The samples of an evaluation have no slots, so their views are compared with one another.
        """
        if not training:
            return InBatch().candidates(labels, z, views, training)
        batch = self._batch(labels, z)
        return Candidates(
            ops.scatter_update(self.entries, batch.slots, batch.entries),
            ops.arange(self.size, dtype="int64"),
            mask=ops.scatter_update(self.initialised, batch.slots, ops.ones_like(batch.slots[:, 0], "bool")),
        )

    def update(self, labels: Tensor, z: Tensor, candidates: Candidates | None) -> None:
        """Updates the slots of the batches of all replicas."""
        batch = self._batch(labels, z)
        moved = l2_normalize(self.momentum * batch.entries + (1.0 - self.momentum) * batch.current)
        self.entries.assign(ops.scatter_update(self.entries, batch.slots, moved))
        initialised = ops.ones_like(batch.slots[:, 0], "bool")
        self.initialised.assign(ops.scatter_update(self.initialised, batch.slots, initialised))

    def check_batch(self, size: int | None, views: int) -> None:
        """Accepts any batch."""

    def _batch(self, numbers: Tensor, z: Tensor) -> _Batch:
        current = ops.cast(ops.stop_gradient(l2_normalize(ops.mean(l2_normalize(z), axis=1))), "float32")
        current, numbers = replicas.gather(current, numbers)
        known = ops.expand_dims(ops.take(self.initialised, numbers, axis=0), 1)
        entries = ops.where(known, ops.take(self.entries, numbers, axis=0), current)
        return _Batch(ops.expand_dims(numbers, 1), entries, current)


class _Batch(NamedTuple):
    slots: Tensor  # (B, 1)
    entries: Tensor  # (B, D), their stored embeddings; for new slots the current ones
    current: Tensor  # (B, D), normalised means of the current views
