from __future__ import annotations

import keras
from keras import ops

from keras_tfcl.ops.candidates import Candidates
from keras_tfcl.typing import Tensor


class KeyQueue(keras.layers.Layer):
    """The keys of the latest steps, first in, first out, as further candidates (MoCo). Empty at the start.

    Empty slots are not compared. Keys and labels are weights without gradient, so they are saved with the
    model. Under `tf.distribute` every replica stores the keys of all.

    Args:
        size: number of keys.
        features: size of a key.
        **kwargs: of `keras.layers.Layer`.

    Reference: He et al. 2020 (MoCo), arXiv 1911.05722.
    """

    def __init__(self, size: int, features: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.size = size
        state = {"initializer": "zeros", "trainable": False, "autocast": False}
        self.keys = self.add_weight(name="keys", shape=(size, features), dtype="float32", **state)
        self.labels = self.add_weight(name="labels", shape=(size,), dtype="int64", **state)
        self.stored = self.add_weight(name="stored", shape=(), dtype="int64", **state)  # keys since the beginning
        self.built = True

    def candidates(self, views: int) -> Candidates:
        """The stored keys, V views of each instance side by side."""
        slot = ops.arange(self.size, dtype="int64")
        return Candidates(
            ops.convert_to_tensor(self.keys),
            ops.convert_to_tensor(self.labels),
            views=ops.cast(slot % views, "int32"),
            mask=slot < self.stored,
        )

    def push(self, keys: Tensor, labels: Tensor) -> None:
        """Stores keys `(N, D)` with their labels `(N,)` in place of the oldest: those of all replicas, on each."""
        keys, labels = keys[: self.size], ops.cast(labels[: self.size], "int64")
        count = ops.cast(ops.shape(keys)[0], "int64")
        slots = ops.expand_dims((self.stored + ops.arange(count, dtype="int64")) % self.size, 1)
        self.keys.assign(ops.scatter_update(self.keys, slots, ops.cast(keys, "float32")))
        self.labels.assign(ops.scatter_update(self.labels, slots, labels))
        self.stored.assign_add(count)

    def check_batch(self, size: int | None, views: int) -> None:
        """Raises ValueError unless the queue holds a whole number of batches; None is not known yet, and passes."""
        step = views * (size or 1)
        if self.size % step:
            raise ValueError(
                "`queue_size` must be a multiple of the keys of a batch, batch size * views, so that keys leave in the "
                f"order they came. Received: queue_size={self.size} for {size or 'batches'} * {views} keys. Use for "
                f"example queue_size={max(round(self.size / step), 1) * step}."
            )
