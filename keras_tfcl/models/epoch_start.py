from __future__ import annotations

import keras

from keras_tfcl._keras_compat import batches_seen
from keras_tfcl.typing import Logs


class EpochStart(keras.callbacks.Callback):
    """Notes the batches so far as an epoch starts: the input pipeline, which reads late, would race with training."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        super().__init__()
        self.step = batches_seen(optimizer)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.step = batches_seen(self.model.optimizer)
