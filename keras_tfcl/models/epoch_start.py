from __future__ import annotations

from typing import Any

import keras


class EpochStart(keras.callbacks.Callback):
    """Notes the optimizer's step as an epoch starts: the input pipeline, which reads late, would race with training."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = int(self.model.optimizer.iterations)
