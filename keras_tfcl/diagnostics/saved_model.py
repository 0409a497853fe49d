"""Writes a report about a saved model, from file names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from keras_tfcl import losses, metrics, models  # noqa: F401  # importing them tells Keras the classes of the library
from keras_tfcl.data.image_source import find_images
from keras_tfcl.data.image_views import image_batches
from keras_tfcl.data.images import TEST_SPLITS, load_images
from keras_tfcl.diagnostics.embeddings import MAX_SAMPLES
from keras_tfcl.diagnostics.report import write_report
from keras_tfcl.layers import image_augmenter


def report_saved_model(
    model: str | os.PathLike[str],
    data: str,
    output: str | os.PathLike[str] = "report.html",
    kind: str | None = None,
    max_samples: int = MAX_SAMPLES,
) -> str:
    """Loads a model and data, and writes the page of `write_report`.

    Args:
        model: a `.keras` file: a `ContrastiveModel`, or an encoder; or the folder of a run, which holds `model.keras`.
        data: as for `read_data`; or, for a model of square RGB images, a folder of images with or without labels, of
            which samples are read by `keras_tfcl.data.image_batches` in the size of the model's input.
        output: the page to write. Defaults to `"report.html"`.
        kind: kind of image, one of `keras_tfcl.data.images.KINDS`, which selects the augmentations if the model has no
            augmenter. Defaults to the kind of the data.
        max_samples: largest number of samples. Defaults to 1024.

    Returns:
        The verdict: `"Healthy"`, `"Needs attention"`, `"Collapsed"` or `"Diverged"`.

    Raises:
        ValueError: for data that cannot be used; see `write_report`.
        OSError: for a file that cannot be read.
        ImportError: without matplotlib; with labels also without scikit-learn.

    Example:

    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> model = keras_tfcl.ContrastiveModel(encoder, augmenter=keras.layers.GaussianNoise(0.1))
    >>> model.save("model.keras")
    >>> np.savez("data.npz", x=np.random.default_rng(0).normal(size=(64, 4)).astype("float32"))
    >>> verdict = keras_tfcl.diagnostics.report_saved_model("model.keras", "data.npz", "report.html")
    """
    model_file = Path(model) / "model.keras" if Path(model).is_dir() else Path(model)
    loaded = keras.models.load_model(model_file)
    augmenter = getattr(loaded, "augmenter", None)
    side = _side(loaded)
    if side and Path(data).is_dir():
        x, labels = read_folder(Path(data), side, max_samples)
        low, high = getattr(augmenter, "value_range", (0, 255))
        x, data_kind = x * ((high - low) / 255) + low, "photos"
    else:
        x, labels, data_kind = read_data(f"folder:{data}" if Path(data).is_dir() else data, max_samples)
    augmenter = augmenter or image_augmenter(kind or data_kind, x.shape[1:])
    title = f"{Path(model).name} on {Path(data).name}"
    return write_report(loaded, x if labels is None else (x, labels), output, augmenter, title, max_samples)


def read_data(name: str, limit: int) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Reads samples, labels if there are any, and the kind of image.

    Args:
        name: an .npz file with `x` or `images`, and optionally `y` or `labels`; an .npy file of samples; or any set of
            images that `load_images` knows, of which the test images are taken.
        limit: largest number of images to load of such a set.

    Returns:
        `(samples, labels or None, kind)`.

    Raises:
        ValueError: for an .npz file without samples, and as `load_images`.
        OSError: for a file that cannot be read.
    """
    if name.endswith(".npy"):
        x = np.load(name)
        return x, None, _kind(x)
    if not name.endswith(".npz"):
        images = load_images(name, limit=limit)
        return images.test_images, images.test_labels, images.kind
    with np.load(name) as arrays:
        x, labels = _first(arrays, "x", "images"), _first(arrays, "y", "labels")
        if x is None:
            raise ValueError(f"`{name}` must hold an array `x` or `images`. Received: {sorted(arrays)}. Rename it.")
    return x, labels, _kind(x)


def read_folder(folder: Path, image_size: int, limit: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads images from all over a folder as `image_batches` does, and their classes if there are several.

    Args:
        folder: of images, at any depth. Of the splits `train` and `test`, `validation` or `val` the latter is read.
        image_size: side in pixels.
        limit: largest number of images to read.

    Returns:
        float32 `(N, image_size, image_size, 3)`, values 0..255, and int64 `(N,)` or None.

    Raises:
        ValueError: for a folder without images.
    """
    splits = [folder / name for name in TEST_SPLITS if (folder / "train").is_dir() and (folder / name).is_dir()]
    files = find_images(splits[0] if splits else folder)
    chosen = np.unique(np.linspace(0, len(files) - 1, min(limit, len(files))).astype(int))
    labelled = len(files.class_names) > 1
    batches = [*image_batches(files.take(chosen), 64, image_size, labels=labelled).as_numpy_iterator()]
    if not labelled:
        return np.concatenate(batches), None
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _side(model: keras.Model) -> int | None:
    """The side of the square RGB images that a model takes; None for any other input."""
    shape = getattr(getattr(model, "encoder", model), "input_shape", None)
    if isinstance(shape, tuple) and len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2]:
        return shape[1]
    return None


def _first(arrays: Mapping[str, np.ndarray], *names: str) -> np.ndarray | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _kind(x: np.ndarray) -> str:
    return "photos" if x.ndim == 4 and x.shape[-1] == 3 else "grey"
