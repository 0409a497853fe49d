"""An end with a reason for runs whose loss is no longer a number."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


class StopOnNonFinite(keras.callbacks.Callback):
    """Raises FloatingPointError at the first batch whose loss is NaN or Inf, and says where that came from.

    The message names epoch and batch, which rows of the batch hold NaN or Inf (inputs or embeddings: known for a
    `ContrastiveModel` on one replica) and what to try. An exception, and not `model.stop_training`: no other callback
    then sees the end of the epoch, so none overwrites a good checkpoint, and `keras.callbacks.BackupAndRestore` keeps
    its backup. At the end of each epoch the weights are checked too, before others can save them: a gradient that was
    NaN shows in the loss only one step later.

    `ContrastiveModel.fit` puts one in front of all callbacks, unless it is given one, or Keras' `TerminateOnNaN`. With
    any other Keras model, put it first in the list.

    Under `mixed_float16` steps whose scaled gradients overflow are skipped by Keras' `LossScaleOptimizer`; their loss
    is finite and they are no failure.

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

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if hasattr(self.model, "first_failure"):
            self.model.first_failure.forget()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            last = batch + 1
            first = max(1, last - self.model.steps_per_execution + 1)
            where = f"batch {last}" if first == last else f"batches {first} to {last}"
            raise FloatingPointError(f"The loss became {loss} in epoch {self._epoch + 1}, {where}{self._reason()}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        floats = [v for v in self.model.weights if "float" in v.dtype]
        ruined = [v.path for v in floats if not bool(ops.all(ops.isfinite(v)))]
        if ruined:
            raise FloatingPointError(
                f"The last gradient of epoch {epoch + 1} was not finite: NaN or Inf in {len(ruined)} of {len(floats)} "
                f"weights, the first is {ruined[0]}. {_LEARN_MORE_SLOWLY} {_GO_ON}"
            )

    def _reason(self) -> str:
        failure = self.model.first_failure.read() if hasattr(self.model, "first_failure") else None
        if failure is None:
            return f". {_LOOK_AT_INPUTS} {_LEARN_MORE_SLOWLY} {_GO_ON}"
        inputs = _rows(failure.bad_inputs, failure.instances, failure.first_bad_input)
        embeddings = _rows(failure.bad_embeddings, failure.instances, failure.first_bad_embedding)
        return (
            f" (optimizer step {failure.step}). Inputs: {inputs}. Embeddings: {embeddings}. {_remedy(failure)} {_GO_ON}"
        )


_LOOK_AT_INPUTS = "Look for NaN or Inf in the data and in what the augmenter makes of it."
_LEARN_MORE_SLOWLY = (
    "Lower the learning rate, warm it up, or clip gradients (clipnorm=1.0); under mixed_float16 use mixed_bfloat16, "
    "whose range is float32's."
)
_RUINED_OR_SPREAD = (
    "Either the gradient of the step before ruined the weights, or the encoder overflows on some row and batch "
    "normalisation spreads that to all."
)
_GO_ON = "The weights in memory may be ruined: go on from the last checkpoint, which has not been overwritten."


def _rows(bad: int, instances: int, first: int) -> str:
    return f"NaN or Inf in {bad} of {instances} instances, the first is row {first}" if bad else "all finite"


def _remedy(failure: Any) -> str:
    if failure.bad_inputs:
        return _LOOK_AT_INPUTS
    if failure.bad_embeddings == failure.instances:
        return f"{_RUINED_OR_SPREAD} {_LEARN_MORE_SLOWLY}"
    if failure.bad_embeddings:
        return f"The encoder overflows on these rows. {_LEARN_MORE_SLOWLY}"
    return f"The loss itself overflowed: raise its temperature, or look at sample_weight. {_LEARN_MORE_SLOWLY}"
