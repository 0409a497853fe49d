"""Writes a report about a saved model, from file names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from keras_tfcl.data.images import load_images
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
        model: a `.keras` file: a `ContrastiveModel`, or an encoder.
        data: as for `read_data`.
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
    """
    loaded = keras.models.load_model(model)
    x, labels, data_kind = read_data(data, max_samples)
    augmenter = getattr(loaded, "augmenter", None) or image_augmenter(kind or data_kind, x.shape[1:])
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


def _first(arrays: Mapping[str, np.ndarray], *names: str) -> np.ndarray | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _kind(x: np.ndarray) -> str:
    return "photos" if x.ndim == 4 and x.shape[-1] == 3 else "grey"
