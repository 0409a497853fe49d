"""A note of what was not finite in the first step whose loss was not."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf


class Failure(NamedTuple):
    """What was found.

    Attributes:
        step: number of optimizer steps before the failing one.
        instances: number of instances in the batch.
        bad_inputs, first_bad_input: how many instances have NaN or Inf in a view, and the row of the first (-1: none).
        bad_embeddings, first_bad_embedding: the same of the projections that the loss saw.
    """

    step: int
    instances: int
    bad_inputs: int
    first_bad_input: int
    bad_embeddings: int
    first_bad_embedding: int


class FirstFailure:
    """Written inside the training step, on the device, and only when a loss is not finite: it costs nothing before.

    `keras_tfcl.callbacks.StopOnNonFinite` reads it. It is no part of the model's state, and is not saved.
    """

    def __init__(self) -> None:
        self._note = tf.Variable([-1] * len(Failure._fields), dtype="int64", trainable=False)

    def forget(self) -> None:
        """Makes room for the next failure."""
        self._note.assign([-1] * len(Failure._fields))

    def read(self) -> Failure | None:
        """The first failure since `forget`, or None."""
        note = Failure(*(int(number) for number in self._note.numpy()))
        return None if note.instances < 0 else note

    def note(self, step: Any, x: Any, y_pred: Any, loss: Any) -> None:
        """Notes which rows of inputs and embeddings are not finite, if the loss is the first that is not."""
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return  # each replica has rows of its own

        def write() -> bool:
            inputs, embeddings = _bad_rows(x), _bad_rows(y_pred)
            instances = tf.shape(y_pred, out_type="int64")[0]
            found = [tf.cast(step, "int64"), instances, *_summary(inputs), *_summary(embeddings)]
            self._note.assign(tf.stack(found))
            return True

        tf.cond(~tf.math.is_finite(loss) & (self._note[1] < 0), write, lambda: False)


def _bad_rows(values: Any) -> Any:
    """bool (B,): whether a row of any of the tensors holds NaN or Inf."""
    floats = [t for t in map(tf.convert_to_tensor, keras.tree.flatten(values)) if t.dtype.is_floating]
    if not floats:
        return tf.constant([False])
    bad = [tf.reduce_any(~tf.math.is_finite(t), axis=range(1, len(t.shape))) for t in floats]
    return tf.reduce_any(tf.stack(bad), axis=0)


def _summary(bad: Any) -> tuple[Any, Any]:
    """How many, and the position of the first or -1."""
    first = tf.argmax(tf.cast(bad, "int32"), output_type="int64")
    return tf.math.count_nonzero(bad), tf.where(tf.reduce_any(bad), first, tf.constant(-1, "int64"))
