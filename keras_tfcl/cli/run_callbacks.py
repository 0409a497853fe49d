"""What a training run saves and says after each epoch."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from pathlib import Path

import keras
from rich.console import Console
from rich.progress import BarColumn
from rich.progress import Progress as RichProgress

from keras_tfcl.atomic_write import atomic_write, write_atomically
from keras_tfcl.callbacks import CollapseMonitor
from keras_tfcl.data.image_views import NAMED, ImageReader
from keras_tfcl.typing import Logs

SAID = ("loss", "contrastive_accuracy", "knn_accuracy", "uniformity", "effective_rank")


class Checkpoint(keras.callbacks.Callback):
    """Saves the model as a whole, so that a run that is killed at any moment continues where it was saved.

    Args:
        folder: of the run.
        epoch: number of epochs that are done.
        minutes: time after which it saves within an epoch too; None for never.

    Attributes:
        history: the logs of each epoch.
    """

    def __init__(self, folder: Path, epoch: int, minutes: float | None = None) -> None:
        super().__init__()
        self._model_file, self._history_file = folder / "model.keras", folder / "history.json"
        before = json.loads(self._history_file.read_text()) if epoch else []
        self.history: list[dict[str, float]] = before[:epoch]
        self._seconds = math.inf if minutes is None else 60 * minutes
        self._saved = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if time.monotonic() - self._saved >= self._seconds:
            self._save()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.history.append({name: float(value) for name, value in (logs or {}).items()})
        # The history first: if the process is killed between the two, its last entry is cut off and written again.
        write_atomically(self._history_file, (json.dumps(self.history, indent=1) + "\n").encode())
        self._save()

    def _save(self) -> None:
        with atomic_write(self._model_file) as draft:
            self.model.save(draft)
        self._saved = time.monotonic()


class Progress(keras.callbacks.Callback):
    """Shows a bar with images a second, loss and time left on a terminal, and prints a line after each epoch.

    Args:
        batch_size: number of images in a batch.
        epochs: of the whole run.
        batches: number of batches in an epoch.
        monitor: whose new diagnoses are printed, in front of the line.
    """

    def __init__(self, batch_size: int, epochs: int, batches: int, monitor: CollapseMonitor | None) -> None:
        super().__init__()
        self._batch_size, self._epochs, self._batches, self._monitor = batch_size, epochs, batches, monitor
        self._started, self._done, self._epoch = 0.0, 0, 0
        self._said: list[str] = []
        columns = ("{task.description}", BarColumn(), "{task.fields[pace]}")
        self._bar = RichProgress(
            *columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True
        )
        self._task = self._bar.add_task("", total=batches, pace="preparing the first step")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._bar.start()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._bar.stop()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._started, self._done, self._epoch = time.perf_counter(), 0, epoch
        self._bar.reset(self._task, total=self._batches, description=f"epoch {epoch + 1}/{self._epochs}")

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._done += 1
        rate, left = self._pace()
        loss = (logs or {}).get("loss", 0.0)
        self._bar.update(self._task, advance=1, pace=f"{rate:.0f} images/s, loss {loss:.4f}, {left} left")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        diagnoses = self._monitor.diagnoses if self._monitor else []
        names = [diagnosis.name for diagnosis in diagnoses]  # the numbers in their texts change
        if names != self._said:
            text = " ".join(map(str, diagnoses))
            self._print(f"warning: {text}" if text else "the embeddings are healthy again")
        self._said = names
        said = ", ".join(f"{name.replace('_', ' ')} {logs[name]:.4f}" for name in SAID if logs and name in logs)
        rate, left = self._pace()
        self._print(f"epoch {epoch + 1}/{self._epochs}: {said}; {rate:.0f} images/s, {left} left")

    def _pace(self) -> tuple[float, str]:
        """Images a second in this epoch, and the time left at this pace."""
        seconds = (time.perf_counter() - self._started) / max(self._done, 1)  # a batch
        batches = (self._epochs - self._epoch) * self._batches - self._done
        return self._batch_size / seconds, duration(seconds * batches)

    def _print(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


class SkippedImages(keras.callbacks.Callback):
    """Names images that could not be read, once, after the epoch in which they were met; of many, the first few."""

    def __init__(self, reader: ImageReader) -> None:
        super().__init__()
        self.named: dict[str, str] = {}
        self._reader = reader

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.name_new(self._reader)

    def name_new(self, reader: ImageReader) -> None:
        """Names the images that a reader met for the first time."""
        new = {name: reason for name, reason in sorted(reader.skipped.copy().items()) if name not in self.named}
        for name, reason in [*new.items()][:NAMED]:
            print(f"skipped: {name!r}: {' '.join(reason.split())}", file=sys.stderr)
        if left := [*new][NAMED:]:
            kinds = Counter(Path(name).suffix.lower() or "no suffix" for name in left)
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(NAMED))
            print(f"skipped: {len(left)} more ({counts}); run.json names all in the end", file=sys.stderr)
        self.named |= new


def duration(seconds: float) -> str:
    """A time in words: 5 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
