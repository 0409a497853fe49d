from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_tfcl.ops import replicas
from keras_tfcl.ops.candidates import Candidates
from keras_tfcl.ops.similarity import l2_normalize


class InstanceBank(keras.layers.Layer):
    """One remembered embedding for each instance of the data set, a moving average over the steps that saw it.

    Each view of instance i is compared with the whole bank: entry i is its positive, all others are negatives. After
    the step `entry <- l2(m * entry + (1 - m) * mean of its views)`. The first step that sees an instance remembers it
    before comparing; instances never seen are not compared. Entries are weights without gradient, saved with the model.

    Args:
        size: number of instances; they are numbered 0 to size - 1.
        features: size of an embedding.
        momentum: m, in [0, 1).
        **kwargs: of `keras.layers.Layer`.

    References: Wu et al. 2018, arXiv 1805.01978 (m = 0.5); Wang and Liu 2021, arXiv 2012.09740.
    """

    def __init__(self, size: int, features: int, momentum: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.momentum = size, momentum
        state = {"initializer": "zeros", "trainable": False, "autocast": False}
        self.entries = self.add_weight(name="entries", shape=(size, features), dtype="float32", **state)
        self.seen = self.add_weight(name="seen", shape=(size,), dtype="bool", **state)
        self.built = True

    def numbers(self, rows: int, y: Any) -> np.ndarray:
        """The numbers of the rows of an array; raises ValueError if there are too many, or y was given besides."""
        if y is not None:
            raise ValueError(
                "Arrays are numbered by themselves for a memory bank. Received: y. Leave y out; labels for an "
                "evaluation go to callbacks such as KNNEvaluation."
            )
        if rows > self.size:
            raise ValueError(
                "The memory bank must have an entry for each instance. Received: "
                f"{rows} rows for queue_size={self.size}. Pass queue_size={rows}."
            )
        return np.arange(rows)

    def candidates(self, instances: Any, embeddings: Any) -> Candidates:
        """The bank as it is compared with a batch: instance numbers `(B,)`, embeddings `(B, V, D)`."""
        batch = self._batch(instances, embeddings)
        return Candidates(
            ops.scatter_update(self.entries, batch.places, batch.entries),
            ops.arange(self.size, dtype="int64"),
            mask=ops.scatter_update(self.seen, batch.places, ops.ones_like(batch.places[:, 0], "bool")),
        )

    def remember(self, instances: Any, embeddings: Any) -> None:
        """Moves the entries of a batch's instances, of all replicas."""
        batch = self._batch(instances, embeddings)
        moved = l2_normalize(self.momentum * batch.entries + (1.0 - self.momentum) * batch.present)
        self.entries.assign(ops.scatter_update(self.entries, batch.places, moved))
        self.seen.assign(ops.scatter_update(self.seen, batch.places, ops.ones_like(batch.places[:, 0], "bool")))

    def _batch(self, instances: Any, embeddings: Any) -> _Batch:
        present = ops.stop_gradient(l2_normalize(ops.mean(l2_normalize(embeddings), axis=1)))
        present, instances = replicas.gather(present, instances)
        known = ops.expand_dims(ops.take(self.seen, instances, axis=0), 1)
        entries = ops.where(known, ops.take(self.entries, instances, axis=0), present)
        return _Batch(ops.expand_dims(instances, 1), entries, present)


class _Batch(NamedTuple):
    places: Any  # (B, 1), numbers of the instances
    entries: Any  # (B, D), what the bank holds of them; of new ones what it will
    present: Any  # (B, D), unit means of their views now
