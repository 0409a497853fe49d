"""One training run from a folder of images to an exported encoder, which can be stopped and continued at any time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_tfcl
from keras_tfcl.atomic_write import write_atomically
from keras_tfcl.data import image_batches, image_views
from keras_tfcl.data.image_source import ImageFiles
from keras_tfcl.diagnostics import write_report
from keras_tfcl.export import export_onnx
from keras_tfcl.models.backbone import SMALL, build_backbone
from keras_tfcl.typing import Logs

SAMPLES = 1024  # images in the report and in the picture of neighbours
PROJECTION = 128
WARM_UP = 0.05  # share of the steps
FOR_BATCH = 256  # the batch that the default learning rate is meant for


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is asked to do; None stands for a choice made from the images."""

    source: str
    backbone: str
    weights: str | None
    image_size: int
    epochs: int
    batch_size: int | None
    learning_rate: float | None
    loss: str
    temperature: float | None
    seed: int

    def completed(self, images: int) -> Settings:
        """The settings with every choice made."""
        batch_size = self.batch_size or min(256 if self.image_size <= SMALL else 64, max(images // 2, 1))
        rate = self.learning_rate or 1e-3 * batch_size / FOR_BATCH
        temperature = self.temperature or (0.2 if self.loss == "infonce" else None)
        return dataclasses.replace(self, batch_size=batch_size, learning_rate=rate, temperature=temperature)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run wrote, and what it found."""

    folder: str
    images: int
    skipped: int
    epochs: int
    loss: float
    verdict: str
    cosine_to_keras: float
    knn_accuracy: float | None

    def __str__(self) -> str:
        knn = "" if self.knn_accuracy is None else f" kNN accuracy {self.knn_accuracy:.3f}."
        return (
            f"{self.folder}: model.keras, encoder.onnx (cosine to Keras at least {self.cosine_to_keras:.6f}), "
            f"report.html, neighbours.png. {self.images} images, {self.skipped} skipped, {self.epochs} epochs, loss "
            f"{self.loss:.4f}. {self.verdict}.{knn}"
        )


def train(settings: Settings, folder: Path, quiet: bool = False) -> Result:
    """Runs, or continues, a run in a folder.

    Raises:
        ValueError: the folder holds a run with other settings or other images, or the images cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = image_batches(settings.source, 64, settings.image_size)
    files = plain.reader.files
    settings = settings.completed(len(files))
    _record(settings, files, folder)
    if not quiet:
        print(
            f"{len(files)} images in {settings.source}, batches of {settings.batch_size}, {settings.image_size} px, "
            f"learning rate {settings.learning_rate:.2g}, {settings.epochs} epochs"
        )
    keras.utils.set_random_seed(settings.seed)
    batch_size: int = settings.batch_size  # type: ignore[assignment]  # `completed` has chosen it
    views = image_views(settings.source, batch_size, settings.image_size, seed=settings.seed)
    model = _model(settings, steps=settings.epochs * len(views))
    callbacks = [
        keras.callbacks.BackupAndRestore(os.fspath(folder / "backup"), delete_checkpoint=False),
        keras.callbacks.CSVLogger(os.fspath(folder / "history.csv"), append=True),
        *([] if quiet else [Progress(batch_size, settings.epochs)]),
    ]
    model.fit(views, epochs=settings.epochs, callbacks=callbacks, verbose=0)
    return _finish(model, settings, folder, plain, views)


def _model(settings: Settings, steps: int) -> keras_tfcl.ContrastiveModel:
    encoder = build_backbone(settings.backbone, settings.image_size, weights=settings.weights)
    features = encoder.output_shape[-1]
    model = keras_tfcl.ContrastiveModel(
        encoder, projector=keras_tfcl.ProjectionHead((features, PROJECTION)), seed=settings.seed
    )
    warm_up = int(WARM_UP * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(steps - warm_up, 1), warmup_target=settings.learning_rate, warmup_steps=warm_up
    )
    temperature: float = settings.temperature  # type: ignore[assignment]  # `completed` has chosen it for InfoNCE
    loss = keras_tfcl.ArctanhInfoNCE() if settings.loss == "arctanh" else keras_tfcl.InfoNCE(temperature)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-4),
        loss=loss,
        metrics=[keras_tfcl.Uniformity(), keras_tfcl.Alignment(), keras_tfcl.ContrastiveAccuracy()],
    )
    return model


class Progress(keras.callbacks.Callback):
    """One line an epoch: images a second, loss, metrics, time left."""

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
        left = seconds * (self._epochs - epoch - 1)
        said = ", ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        rate = self._batches * self._batch_size / seconds
        print(f"epoch {epoch + 1}/{self._epochs}: {said}; {rate:.0f} images/s, {left / 60:.0f} min left", flush=True)


def _record(settings: Settings, files: ImageFiles, folder: Path) -> None:
    """Writes run.json, or checks that the run in the folder is the one that is asked for."""
    path = folder / "run.json"
    asked: dict[str, Any] = {"settings": dataclasses.asdict(settings), "data": _hash(files)}
    if path.exists():
        recorded = json.loads(path.read_text())
        before, now = recorded["settings"], asked["settings"]
        changed = [f"{name}={now[name]!r} (was {before.get(name)!r})" for name in now if now[name] != before.get(name)]
        if recorded["data"] != asked["data"]:
            changed.append("other images")
        if changed:
            raise ValueError(
                f"A run continues with the settings it began with. Received: {', '.join(changed)} for {folder}. Give "
                "the settings in its run.json, or another folder."
            )
        return
    versions = {name: metadata.version(name) for name in ("keras", "tensorflow", "numpy")}
    about = {"keras_tfcl": keras_tfcl.__version__, **versions, "python": platform.python_version()}
    write_atomically(path, (json.dumps(asked | {"versions": about}, indent=2) + "\n").encode())


def _hash(files: ImageFiles) -> str:
    digest = hashlib.sha256()
    for name, path, size in zip(files.names, files.paths, files.sizes, strict=True):
        digest.update(f"{name}\0{os.path.getsize(path) if size < 0 else size}\n".encode())
    return digest.hexdigest()


def _finish(
    model: keras_tfcl.ContrastiveModel, settings: Settings, folder: Path, plain: tf.data.Dataset, views: tf.data.Dataset
) -> Result:
    model.save(folder / "model.keras")
    images = _some_images(plain)
    report = export_onnx(
        model,
        folder / "encoder.onnx",
        samples=images[:16],
        notes={"image": {"range": [0, 255], "size": [settings.image_size] * 2}},
    )
    shape = images.shape[1:]
    verdict = write_report(
        model, images, folder / "report.html", augmenter=keras_tfcl.layers.image_augmenter("photos", shape)
    )
    embeddings = model.predict(images, verbose=0)
    _draw_neighbours(images, embeddings, folder / "neighbours.png")
    losses = np.genfromtxt(folder / "history.csv", delimiter=",", names=True)["loss"]
    reader = views.reader
    return Result(
        folder=os.fspath(folder),
        images=len(reader.files),
        skipped=len({*reader.skipped, *plain.reader.skipped}),
        epochs=settings.epochs,
        loss=float(np.atleast_1d(losses)[-1]),
        verdict=verdict,
        cosine_to_keras=float(report.min_cosine),
        knn_accuracy=_knn(model, settings) if reader.files.class_names else None,
    )


def _some_images(plain: tf.data.Dataset) -> np.ndarray:
    """Images from all over the source, at most `SAMPLES`."""
    every = max(len(plain) * 64 // SAMPLES, 1)
    images = [batch[::every] for batch in plain.as_numpy_iterator()]
    return np.concatenate(images)[:SAMPLES]


def _knn(model: keras_tfcl.ContrastiveModel, settings: Settings) -> float:
    """Accuracy on every fifth image by the nearest neighbours among the others, up to 20 of them."""
    data = image_batches(settings.source, 64, settings.image_size, labels=True)
    embeddings = model.predict(data.map(lambda x, y: x), verbose=0)
    labels = np.concatenate([y for _, y in data.as_numpy_iterator()])
    held_out = np.arange(len(labels)) % 5 == 0
    k = min(20, int((~held_out).sum()))
    return keras_tfcl.evaluation.knn_accuracy(
        embeddings[~held_out], labels[~held_out], embeddings[held_out], labels[held_out], k=k
    )


def _draw_neighbours(images: np.ndarray, embeddings: np.ndarray, path: Path, queries: int = 6, k: int = 6) -> None:
    """A row for each query: the image, and the images nearest to it with their cosines."""
    from matplotlib.figure import Figure

    chosen = np.linspace(0, len(images) - 1, min(queries, len(images))).astype(int)
    cosines = embeddings[chosen] @ embeddings.T
    cosines[np.arange(len(chosen)), chosen] = -np.inf
    k = min(k, len(images) - 1)
    nearest = np.argsort(-cosines, axis=1)[:, :k]
    figure = Figure(figsize=(1.5 * (k + 1), 1.6 * len(chosen)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(chosen), k + 1, squeeze=False))
    for row, query in enumerate(chosen):
        shown = [(query, "query"), *((i, f"{cosines[row, i]:.2f}") for i in nearest[row])]
        for axis, (i, title) in zip(axes[row], shown, strict=True):
            axis.imshow(images[i].astype("uint8"))
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    figure.savefig(path, dpi=100)
