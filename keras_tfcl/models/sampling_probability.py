from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl.ops import replicas
from keras_tfcl.ops.masks import as_labels
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import fraction, positive_integer

MULTIPLIER = -7046029254386353131  # of Fibonacci hashing: 2^64 divided by the golden ratio, as int64


@keras.saving.register_keras_serializable(package="keras_tfcl")
class SamplingProbability(keras.layers.Layer):
    """Estimates from a stream of batches how probable it is that a batch holds an item: the Q of the log Q correction.

    In-batch negatives are drawn by popularity, so popular items are repelled too often; subtracting log Q from a
    candidate's logits corrects it. An item that comes in every d-th batch has Q = 1 / d. For each bucket of items the
    layer keeps the batch that last held one of them, and a moving average d of the number of batches in between:

        d <- (1 - learning_rate) * d + learning_rate * (batches since the last time)

    The first gap starts the average. An item that was never seen in t batches has Q = 1 / (t + 1). Items that fall into
    one bucket share an estimate that is too high for each, so choose several buckets for each item.

    It is called with `training=True` once for each batch, and then counts it. Its state is saved with the model that it
    is a part of. Under `tf.distribute` the batch of all replicas counts.

    Args:
        buckets: number of buckets, at least 1; the state has two numbers for each.
        learning_rate: weight of a new gap, in (0, 1]. Defaults to 0.01.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        items: integers `(B,)` or `(B, 1)`, identifiers of the items of a batch.
        training: whether to count the batch. Defaults to False.

    Returns:
        float32 `(B,)`, in (0, 1]; with `training=True` after the batch was counted.

    Raises:
        ValueError: for arguments out of range, and for items that are no integers.

    Example:

    >>> estimate = keras_tfcl.SamplingProbability(buckets=1000)
    >>> for step in range(20):
    ...     _ = estimate(np.array([7] if step % 4 else [7, 8]), training=True)  # 8 is in every fourth batch
    >>> estimate(np.array([7, 8])).numpy()
    array([1.  , 0.25], dtype=float32)

    Reference: Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys,
    algorithms 2 and 3.
    """

    def __init__(self, buckets: int, learning_rate: float = 0.01, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.buckets = positive_integer("buckets", buckets, "Use several times the number of items.")
        self.learning_rate = fraction("learning_rate", learning_rate, "Use learning_rate=0.01.")
        state = {"initializer": "zeros", "trainable": False, "autocast": False, "aggregation": "only_first_replica"}
        self.last = self.add_weight(name="last", shape=(buckets,), dtype="int64", **state)  # 0: never
        self.gap = self.add_weight(name="gap", shape=(buckets,), dtype="float32", **state)  # 0: not known
        self.batches = self.add_weight(name="batches", shape=(), dtype="int64", **state)
        self.built = True

    def call(self, items: Tensor, training: bool | None = False) -> Tensor:
        items = as_labels(items, "items")
        if training:
            self._count(replicas.gather(items)[0])
        bucket = self._bucket(items)
        gap, last = ops.take(self.gap, bucket), ops.take(self.last, bucket)
        # Seen once: every so many batches at most. Never seen: less often than once in all batches.
        first = ops.where(last > 0, last, self.batches + 1)
        return 1.0 / ops.where(gap > 0, gap, ops.cast(first, "float32"))

    def _count(self, items: Tensor) -> None:
        self.batches.assign_add(1)
        bucket = self._bucket(items)
        last, gap = ops.take(self.last, bucket), ops.take(self.gap, bucket)
        since = ops.cast(self.batches - last, "float32")
        moved = ops.where(gap > 0, gap + self.learning_rate * (since - gap), since)
        slot = ops.expand_dims(bucket, 1)  # where a batch holds an item twice, both write the same
        self.gap.assign(ops.scatter_update(self.gap, slot, ops.where(last > 0, moved, gap)))
        self.last.assign(ops.scatter_update(self.last, slot, ops.ones_like(bucket) * self.batches))

    def _bucket(self, items: Tensor) -> Tensor:
        """Integers `(B,)`; the upper bits of a product depend on all bits of the item."""
        return tf.math.floormod(tf.bitwise.right_shift(tf.cast(items, "int64") * MULTIPLIER, 31), self.buckets)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0],)

    def get_config(self) -> Config:
        return {**super().get_config(), "buckets": self.buckets, "learning_rate": self.learning_rate}
