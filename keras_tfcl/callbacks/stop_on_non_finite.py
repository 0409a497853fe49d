"""Stops a run, with a reason, when its inputs, loss or weights are not finite."""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl.typing import Logs, Structure, Tensor


class StopOnNonFinite(keras.callbacks.Callback):
    """Raises FloatingPointError at the first batch whose loss or inputs hold NaN or Inf, and names their origin.

    The message names the epoch and the batch, and what to try. For a `ContrastiveModel` on one replica it also names
    the rows of the batch whose inputs or embeddings are not finite. A `ContrastiveModel` finds such inputs in the batch
    that contains them, even if relu, max pooling or clipping turn them into numbers. In other models they are found
    only if the loss shows them.

    The callback raises an exception instead of setting `model.stop_training`. Callbacks after this one therefore see
    neither the end of the batch nor of the epoch, so they save nothing, and `keras.callbacks.BackupAndRestore` keeps
    its backup. At the end of each epoch the weights are checked too, before other callbacks can save them, because a
    NaN gradient shows in the loss only one step later. A checkpoint from the end of an epoch is therefore finite; one
    that was saved within an epoch may not be.

    `ContrastiveModel.fit` puts this callback before all others, unless you pass one, or Keras' `TerminateOnNaN`.
    With other Keras models, put it first in the list.

    Under `mixed_float16`, Keras' `LossScaleOptimizer` skips steps whose scaled gradients overflow. Their loss is
    finite, so they raise no error.

    Example:

    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model = keras_tfcl.ContrastiveModel(encoder)
    >>> model.compile("adam", loss="infonce")
    >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    >>> x[5] = np.nan
    >>> model.fit((x, x + 1), batch_size=16, shuffle=False, verbose=0)
    Traceback (most recent call last):
    FloatingPointError: The loss became nan in epoch 1, batch 1 (optimizer step 0). Inputs: NaN or Inf in 1 of 16 ...
    """

    # Keras may call it from another thread, a few steps late, so that no step waits for its own loss. It still comes
    # before the end of the epoch; and beside a callback that saves within the epoch Keras waits.
    async_safe = True

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if hasattr(self.model, "first_failure"):
            self.model.first_failure.forget()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            last = batch + 1
            first = max(1, last - self.model.steps_per_execution + 1)
            where = f"batch {last}" if first == last else f"batches {first} to {last}"
            raise FloatingPointError(
                f"The loss became {loss} in epoch {self._epoch + 1}, {where}{self._reason()} {_continue(self._epoch)}"
            )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        floats = [v for v in self.model.weights if "float" in v.dtype]
        ruined = [v.path for v in floats if not bool(ops.all(ops.isfinite(v)))]
        if ruined:
            raise FloatingPointError(
                f"The last gradient of epoch {epoch + 1} was not finite: NaN or Inf in {len(ruined)} of {len(floats)} "
                f"weights, the first is {ruined[0]}. {_LOWER_LEARNING_RATE} {_continue(epoch)}"
            )

    def _reason(self) -> str:
        failure = self.model.first_failure.read() if hasattr(self.model, "first_failure") else None
        if failure is None:
            return f". {_CLEAN_INPUTS} {_LOWER_LEARNING_RATE}"
        inputs = _rows(failure.bad_inputs, failure.samples, failure.first_bad_input)
        embeddings = _rows(failure.bad_embeddings, failure.samples, failure.first_bad_embedding)
        return f" (optimizer step {failure.step}). Inputs: {inputs}. Embeddings: {embeddings}. {_remedy(failure)}"


class Failure(NamedTuple):
    """The values that were not finite in a step.

    Attributes:
        step: number of optimizer steps before it.
        samples: number of samples in its batch.
        bad_inputs, first_bad_input: how many samples have NaN or Inf in a view, and the row of the first (-1: none).
        bad_embeddings, first_bad_embedding: the same for the projections that the loss received.
    """

    step: int
    samples: int
    bad_inputs: int
    first_bad_input: int
    bad_embeddings: int
    first_bad_embedding: int


class FirstFailure:
    """Records the first step whose loss or inputs are not finite, on the device, for `StopOnNonFinite`.

    It is not part of the model's state, and is not saved.
    """

    def __init__(self) -> None:
        self._note = tf.Variable([-1] * len(Failure._fields), dtype="int64", trainable=False)

    def forget(self) -> None:
        """Clears the recorded failure."""
        self._note.assign([-1] * len(Failure._fields))

    def read(self) -> Failure | None:
        """The first failure since `forget`, or None."""
        note = Failure(*(int(number) for number in self._note.numpy()))
        return None if note.samples < 0 else note

    def checked_loss(self, loss: Tensor, x: Structure, embeddings: Tensor, step: int | Tensor) -> Tensor:
        """The loss of a training step; NaN where an input holds NaN or Inf.

        Args:
            loss: scalar.
            x: structure of the inputs of the step.
            embeddings: `(B, ...)`, as the loss received them.
            step: number of optimizer steps so far.
        """

        def look_closer() -> Tensor:
            bad_inputs, bad_embeddings = _bad_rows(x), _bad_rows(embeddings)
            result = tf.where(tf.reduce_any(bad_inputs), tf.constant(float("nan"), loss.dtype), loss)
            # With several replicas, no replica knows the index of its rows in the whole batch.
            if tf.distribute.get_strategy().num_replicas_in_sync == 1:
                samples = tf.shape(embeddings, out_type="int64")[0]
                found = tf.stack([tf.cast(step, "int64"), samples, *_summary(bad_inputs), *_summary(bad_embeddings)])
                is_first = (self._note[1] < 0) & ~tf.math.is_finite(result)
                self._note.assign(tf.where(is_first, found, self._note))
            return result

        return tf.cond(_seem_finite((loss, x)), lambda: loss, look_closer)


def nan_unless_finite(loss: Tensor, x: Structure) -> Tensor:
    """The loss of a validation step; NaN where an input holds NaN or Inf that the encoder hides."""
    nan = tf.constant(float("nan"), loss.dtype)
    return tf.cond(_seem_finite((loss, x)), lambda: loss, lambda: tf.where(tf.reduce_any(_bad_rows(x)), nan, loss))


def _seem_finite(values: Structure) -> Tensor:
    """Whether the sum of all is finite, in one pass: it is not if any of them is not. It may overflow, though."""
    sums = [tf.reduce_sum(tf.cast(t, "float32") if t.dtype.size < 4 else t) for t in _floats(values)]
    return tf.math.is_finite(tf.add_n([tf.cast(number, "float32") for number in sums]))


def _floats(values: Structure) -> list[Tensor]:
    return [t for t in map(tf.convert_to_tensor, keras.tree.flatten(values)) if t.dtype.is_floating]


def _bad_rows(values: Structure) -> Tensor:
    """bool (B,): whether a row of any of the tensors holds NaN or Inf."""
    bad = [tf.reduce_any(~tf.math.is_finite(t), axis=range(1, len(t.shape))) for t in _floats(values)]
    return tf.reduce_any(tf.stack(bad), axis=0) if bad else tf.constant([False])


def _summary(bad: Tensor) -> tuple[Tensor, Tensor]:
    """How many, and the index of the first or -1."""
    first = tf.argmax(tf.cast(bad, "int32"), output_type="int64")
    return tf.math.count_nonzero(bad), tf.where(tf.reduce_any(bad), first, tf.constant(-1, "int64"))


_CLEAN_INPUTS = "Look for NaN or Inf in the data and in what the augmenter makes of it."
_LOWER_LEARNING_RATE = (
    "Lower the learning rate, warm it up, or clip gradients (clipnorm=1.0); under mixed_float16 use mixed_bfloat16, "
    "whose range is float32's."
)
_RUINED_OR_SPREAD = (
    "Either the gradient of the step before ruined the weights, or the encoder overflows on some row and batch "
    "normalisation spreads that to all."
)


def _continue(epoch: int) -> str:
    good = f"the end of epoch {epoch} or earlier" if epoch else "before this run, or start again"
    return f"The weights in memory and checkpoints saved within this epoch may be ruined: use a checkpoint from {good}."


def _rows(bad: int, samples: int, first: int) -> str:
    return f"NaN or Inf in {bad} of {samples} samples, the first is row {first}" if bad else "all finite"


def _remedy(failure: Failure) -> str:
    if failure.bad_inputs:
        return _CLEAN_INPUTS
    if failure.bad_embeddings == failure.samples:
        return f"{_RUINED_OR_SPREAD} {_LOWER_LEARNING_RATE}"
    if failure.bad_embeddings:
        return f"The encoder overflows on these rows. {_LOWER_LEARNING_RATE}"
    return f"The loss itself overflowed: raise its temperature, or look at y and sample_weight. {_LOWER_LEARNING_RATE}"
