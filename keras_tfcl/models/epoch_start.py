from __future__ import annotations

from typing import Any

import keras


class EpochStart(keras.callbacks.Callback):
    """Notes the optimizer's step as an epoch starts: the input pipeline, which reads late, would race with training."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        super().__init__()
        self.step = _iterations(optimizer)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = _iterations(self.model.optimizer)


def _iterations(optimizer: keras.optimizers.Optimizer) -> int:
    return int(optimizer.iterations.numpy())  # not int() alone: under tf.distribute it is a MirroredVariable
