"""What a training run saves and says after each epoch."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import keras

from keras_tfcl.atomic_write import write_atomically
from keras_tfcl.data.image_views import ImageReader
from keras_tfcl.typing import Logs


class Checkpoint(keras.callbacks.Callback):
    """Saves the model as a whole, so that a run that is killed at any moment continues after its last epoch.

    Attributes:
        history: the logs of each epoch.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        super().__init__()
        self._model_file, self._history_file = folder / "model.keras", folder / "history.json"
        before = json.loads(self._history_file.read_text()) if epoch else []
        self.history: list[dict[str, float]] = before[:epoch]

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.history.append({name: float(value) for name, value in (logs or {}).items()})
        # The history first: if the process is killed between the two, its last entry is cut off and written again.
        write_atomically(self._history_file, (json.dumps(self.history, indent=1) + "\n").encode())
        draft = self._model_file.with_name("draft.keras")  # Keras writes in place, and only to this suffix
        self.model.save(draft)
        os.replace(draft, self._model_file)


class Progress(keras.callbacks.Callback):
    """Prints a line after each epoch: images a second, loss, metrics and time left."""

    def __init__(self, batch_size: int, epochs: int) -> None:
        super().__init__()
        self._batch_size, self._epochs = batch_size, epochs
        self._started, self._batches = 0.0, 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._started, self._batches = time.perf_counter(), 0

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._batches += 1

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        seconds = time.perf_counter() - self._started
        rate = self._batches * self._batch_size / seconds
        said = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in (logs or {}).items())
        left = duration(seconds * (self._epochs - epoch - 1))
        print(f"epoch {epoch + 1}/{self._epochs}: {said}; {rate:.0f} images/s, {left} left", file=sys.stderr)


class SkippedImages(keras.callbacks.Callback):
    """Names each image that could not be read, once, after the epoch in which it was met."""

    def __init__(self, reader: ImageReader) -> None:
        super().__init__()
        self.named: dict[str, str] = {}
        self._reader = reader

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.name_new(self._reader)

    def name_new(self, reader: ImageReader) -> None:
        """Names the images that a reader met for the first time."""
        new = {name: reason for name, reason in reader.skipped.copy().items() if name not in self.named}
        for name, reason in sorted(new.items()):
            print(f"skipped: {name!r}: {' '.join(reason.split())}", file=sys.stderr)
        self.named |= new


def duration(seconds: float) -> str:
    """A time in words: 5 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
