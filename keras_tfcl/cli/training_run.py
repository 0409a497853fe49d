"""One training run from a folder of images to an exported encoder, which can be stopped and continued at any time."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl._keras_compat import batches_seen, nested_layers
from keras_tfcl.callbacks import CollapseMonitor, CollapseWarning, KNNEvaluation
from keras_tfcl.cli.available_memory import available_memory
from keras_tfcl.cli.keras_file import load_model
from keras_tfcl.cli.neighbours_plot import draw_neighbours
from keras_tfcl.cli.run_callbacks import Checkpoint, Progress, SkippedImages
from keras_tfcl.cli.run_record import RunRecord, Settings, recorded_settings
from keras_tfcl.data import image_batches, image_views
from keras_tfcl.data.image_source import ImageFiles, find_images
from keras_tfcl.diagnostics import write_report
from keras_tfcl.evaluation import knn_accuracy
from keras_tfcl.export import export_onnx
from keras_tfcl.layers import ImageAugmenter, ProjectionHead
from keras_tfcl.layers.photo_recipe import photo_layers
from keras_tfcl.losses import ArctanhInfoNCE, InfoNCE
from keras_tfcl.metrics import Alignment, ContrastiveAccuracy, Uniformity
from keras_tfcl.models import ContrastiveModel
from keras_tfcl.models.backbone import build_backbone

SAMPLES = 1024  # images in the report and in neighbours.png
FEWEST = 4  # images
PROJECTION = 128
WARM_UP = 0.05  # share of the steps
FOR_BATCH = 256  # the batch that the default learning rate is meant for
TEMPERATURE = 0.2
SCALE = 8.0  # the best of three in the benchmarks, of images too
FLOATS_KEPT = 4  # for each output of a layer: two views, values and gradients
OBSERVED = 512  # images that are embedded while the run goes on
OBSERVATIONS = 25  # how often, in the whole run


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run wrote, and what it found."""

    folder: str
    images: int
    skipped: dict[str, str]
    epochs: int
    loss: float
    verdict: str
    cosine_to_keras: float
    knn_accuracy: float | None
    complete_before: bool = False

    def to_dict(self) -> dict[str, object]:
        """The result for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        knn = "" if self.knn_accuracy is None else f" kNN accuracy {self.knn_accuracy:.3f}."
        before = "The run is complete, and nothing was trained. " if self.complete_before else ""
        skipped = f", {len(self.skipped)} skipped (named in run.json)" if self.skipped else ""
        return (
            f"{before}{self.folder}: model.keras, encoder.onnx (as in Keras: cosine {self.cosine_to_keras:.6f}), "
            f"report.html, neighbours.png. {self.images} images{skipped}, epochs: {self.epochs}, loss {self.loss:.4f}. "
            f"{self.verdict}.{knn}"
        )


def train(settings: Settings, folder: Path, quiet: bool = False, save_every: float | None = None) -> Result:
    """Runs, or continues, a run in a folder.

    Args:
        settings: what to do.
        folder: of the run.
        quiet: whether to say nothing, and to compute nothing that would only be said.
        save_every: minutes between two saves of the model within an epoch. Defaults to None: after each epoch only.

    Raises:
        ValueError: the folder holds a run with other settings or other images, or one that another process trains; or
            the images cannot be used.
    """
    if folder.resolve().is_relative_to(settings.source):
        raise ValueError(
            f"The folder of the run must lie outside of the images, since it will hold images too. Received: {folder} "
            f"inside of {settings.source}. Give another folder."
        )
    try:
        files = find_images(settings.source)
    except (FileNotFoundError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    if len(files) < FEWEST:
        raise ValueError(
            f"A run needs at least {FEWEST} images. Received: {len(files)} in {settings.source}. Add more."
        )
    given = settings.batch_size is not None
    settings = with_choices_made(settings, len(files), recorded_settings(folder))
    record = RunRecord(folder, settings, files)
    if complete := _complete(record, folder):
        return complete
    batch_size: int = settings.batch_size  # type: ignore[assignment]  # chosen above
    views = image_views(
        files,
        batch_size,
        settings.image_size,
        seed=settings.seed,
        strength=settings.strength,
        min_area=settings.min_area,
        flip=settings.flip,
    )
    model_file = folder / "model.keras"
    # Before anything is written, so that settings that do not fit leave nothing behind.
    untrained = None if model_file.exists() else _untrained(settings, settings.epochs * len(views))
    with record.by_one_process():
        if complete := _complete(record, folder):  # by a process that ended meanwhile
            return complete
        model = load_model(model_file) if untrained is None or model_file.exists() else untrained
        result = _continued(model, views, settings, folder, quiet, save_every, chosen=not given)
        record.end(result.to_dict())
    return result


def _complete(record: RunRecord, folder: Path) -> Result | None:
    """What a run found, if it is complete."""
    found = record.result()
    return None if found is None else Result(**found | {"folder": os.fspath(folder), "complete_before": True})


def _continued(
    model: ContrastiveModel,
    views: tf.data.Dataset,
    settings: Settings,
    folder: Path,
    quiet: bool,
    save_every: float | None,
    chosen: bool,
) -> Result:
    """Trains a model from where it was saved, and writes the outputs. `chosen` is whether the batch size was chosen."""
    files, batches = views.reader.files, len(views)
    epoch, done = divmod(batches_seen(model.optimizer), batches)
    if not quiet:
        print(
            f"{len(files)} images, {settings.image_size} pixels, batches of {settings.batch_size}"
            f"{' (chosen for image size and memory)' if chosen else ''}, learning rate "
            f"{settings.learning_rate:.2g}, {f'continued after {epoch} of ' if epoch else ''}{settings.epochs} epochs",
            file=sys.stderr,
        )
    checkpoint, skipped = Checkpoint(folder, epoch, save_every), SkippedImages(views.reader)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ of \d+ images could not be read")  # `skipped` names them all
        warnings.filterwarnings("ignore", category=CollapseWarning)  # `Progress` prints them
        observers = [] if quiet else _observers(files, settings, batches)
        _fit(model, views, epoch, done, settings.epochs, [*observers[:-1], checkpoint, skipped, *observers[-1:]])
        if not quiet:
            print("exporting the encoder and writing the report", file=sys.stderr)
        return _finish(model, files, settings, folder, skipped, checkpoint.history[-1]["loss"])


def with_choices_made(settings: Settings, images: int, before: Mapping[str, int | None]) -> Settings:
    """The settings with batch size, learning rate, and temperature or scale chosen where none was given.

    Args:
        settings: as given.
        images: number of them.
        before: settings of the run that is continued, whose choices are kept; empty for a new one.
    """
    batch_size = settings.batch_size or before.get("batch_size") or _largest_batch(settings, images)
    rate, temperature, scale = settings.learning_rate, settings.temperature, settings.scale
    if rate is None:
        rate = 1e-3 * batch_size / FOR_BATCH
    if temperature is None and settings.loss == "infonce":
        temperature = TEMPERATURE
    if scale is None and settings.loss == "arctanh":
        scale = SCALE
    return dataclasses.replace(
        settings, batch_size=batch_size, learning_rate=rate, temperature=temperature, scale=scale
    )


def _largest_batch(settings: Settings, images: int) -> int:
    """A power of two, at most 256 and half of the images, whose activations take up half of the memory at most."""
    encoder = build_backbone(settings.backbone, settings.image_size, weights=settings.weights)
    outputs = [layer.output for layer in nested_layers(encoder) if not isinstance(layer, keras.Model)]
    floats = sum(math.prod(output.shape[1:]) for output in keras.tree.flatten(outputs))
    fitting = 0.5 * available_memory() / (FLOATS_KEPT * 4 * floats)
    return max(2, min(256, 2 ** int(math.log2(max(fitting, 2))), images // 2))


def _observers(files: ImageFiles, settings: Settings, batches: int) -> list[keras.callbacks.Callback]:
    """What looks at the embeddings of some images while the run goes on; the last one says what was found."""
    chosen = np.unique(np.linspace(0, len(files) - 1, min(OBSERVED, len(files))).astype(int))
    labelled = len(files.class_names) > 1
    sample = image_batches(files.take(chosen), 64, settings.image_size, labels=labelled)
    read = [batch if labelled else (batch, np.zeros(len(batch))) for batch in sample.as_numpy_iterator()]
    x, labels = (np.concatenate(parts) for parts in zip(*read, strict=True))
    every = max(settings.epochs // OBSERVATIONS, 1)
    found: list[keras.callbacks.Callback] = []
    monitor = None
    if len(x) > FEWEST:
        held_out = np.arange(len(labels)) % 5 == 0
        if labelled:
            splits = (x[~held_out], labels[~held_out]), (x[held_out], labels[held_out])
            found.append(KNNEvaluation(*splits, every=every))
        monitor = CollapseMonitor(x, augmenter=_augmenter(settings), every=every, batch_size=64)
        found.append(monitor)
    batch_size: int = settings.batch_size  # type: ignore[assignment]  # chosen by now
    return [*found, Progress(batch_size, settings.epochs, batches, monitor)]


def _augmenter(settings: Settings) -> ImageAugmenter:
    """Makes the same kind of views from arrays as the run sees."""
    shape = (settings.image_size, settings.image_size, 3)
    return ImageAugmenter(photo_layers(shape, settings.strength, settings.min_area, settings.flip))


def _untrained(settings: Settings, steps: int) -> ContrastiveModel:
    """The model with which a run begins, always with the same weights, and its schedule over all steps."""
    keras.utils.set_random_seed(settings.seed)
    encoder = build_backbone(settings.backbone, settings.image_size, weights=settings.weights)
    projector = ProjectionHead((encoder.output_shape[-1], PROJECTION))
    model = ContrastiveModel(encoder, projector=projector, seed=settings.seed)
    warm_up = int(WARM_UP * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(steps - warm_up, 1), warmup_target=settings.learning_rate, warmup_steps=warm_up
    )
    parameter: float = settings.scale or settings.temperature  # type: ignore[assignment]  # one is chosen by now
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-4),
        loss=ArctanhInfoNCE(parameter) if settings.loss == "arctanh" else InfoNCE(parameter),
        metrics=[Uniformity(), Alignment(), ContrastiveAccuracy()],
    )
    return model


def _fit(
    model: ContrastiveModel,
    views: tf.data.Dataset,
    epoch: int,
    done: int,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """Trains up to `epochs`, from batch number `done` of an epoch on."""
    try:
        if done:  # the rest of the epoch in which the run was killed
            views.steps.done = done
            rest = len(views) - done
            model.fit(
                views, initial_epoch=epoch, epochs=epoch + 1, steps_per_epoch=rest, callbacks=callbacks, verbose=0
            )
            views.steps.done = 0
            epoch += 1
        if epoch < epochs:
            model.fit(views, initial_epoch=epoch, epochs=epochs, callbacks=callbacks, verbose=0)
    except tf.errors.InvalidArgumentError as error:  # how tf.data passes on what reading an image raises
        skipped = views.reader.skipped
        if "must hold readable images" not in error.message:
            raise
        name, reason = next(iter(skipped.items()))
        raise ValueError(
            f"The folder must hold readable images. Received: {len(skipped)} of {len(views.reader.files)} that cannot "
            f"be read, such as {name!r}: {reason}. Check the files."
        ) from error


def _finish(
    model: ContrastiveModel,
    files: ImageFiles,
    settings: Settings,
    folder: Path,
    skipped: SkippedImages,
    loss: float,
) -> Result:
    """Writes all that follows from the trained model."""
    labelled = len(files.class_names) > 1
    plain = image_batches(files, 64, settings.image_size, labels=labelled)
    images, embeddings, labels, sampled = _embedded(model, plain, labelled)
    skipped.name_new(plain.reader)
    report = export_onnx(model, folder / "encoder.onnx", samples=images[:16], notes={"image": plain.image_rule})
    data = (images, labels[sampled]) if labelled else images
    verdict = write_report(model, data, folder / "report.html", _augmenter(settings), title=folder.resolve().name)
    before = _untrained(settings, steps=1).predict(images, batch_size=64, verbose=0)
    titles = {"before training": before, "after training": embeddings[sampled]}
    draw_neighbours(images, titles, folder / "neighbours.png")
    return Result(
        folder=os.fspath(folder),
        images=len(files),
        skipped=skipped.named,
        epochs=settings.epochs,
        loss=loss,
        verdict=verdict,
        cosine_to_keras=float(report.min_cosine),
        knn_accuracy=_knn(embeddings, labels) if labelled else None,
    )


def _embedded(
    model: keras.Model, data: tf.data.Dataset, labelled: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """At most `SAMPLES` images from all over the data; embeddings and labels of all; and which ones the images are."""
    every = -(-len(data.reader.files) // SAMPLES)
    images, embeddings = [], []
    labels: list[int] = []
    sampled: list[int] = []
    for batch in data.as_numpy_iterator():
        x, y = batch if labelled else (batch, np.zeros(len(batch)))
        if len(x) == 0:  # none could be read
            continue
        chosen = np.arange(-len(labels) % every, len(x), every)
        images.append(x[chosen])
        sampled.extend(len(labels) + chosen)
        embeddings.append(model.predict_on_batch(x))
        labels.extend(y)
    return np.concatenate(images), np.concatenate(embeddings), np.array(labels), np.array(sampled)


def _knn(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on every fifth image by up to 20 nearest neighbours among the others."""
    held_out = np.arange(len(labels)) % 5 == 0
    return knn_accuracy(embeddings[~held_out], labels[~held_out], embeddings[held_out], labels[held_out])
