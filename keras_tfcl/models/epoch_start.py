from __future__ import annotations

from typing import Any

import keras


class EpochStart(keras.callbacks.Callback):
    """Notes the batches so far as an epoch starts: the input pipeline, which reads late, would race with training."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        super().__init__()
        self.step = batches_so_far(optimizer)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = batches_so_far(self.model.optimizer)


def batches_so_far(optimizer: keras.optimizers.Optimizer) -> int:
    """The number of training steps that an optimizer has seen."""
    # Not `iterations`: that counts updates, of which gradient accumulation makes one in several batches.
    counted = getattr(optimizer, "inner_optimizer", optimizer)._iterations
    return int(counted.numpy())  # not int() alone: under tf.distribute it is a MirroredVariable
