"""The command that writes a report about a saved model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tfcl.data.images import KINDS, load_images
from keras_tfcl.diagnostics.measured import ROWS
from keras_tfcl.diagnostics.report import write_report
from keras_tfcl.layers import image_augmenter


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: of the command line. Defaults to those of the process.

    Returns:
        The exit code: 0 for a healthy encoder, 1 for any other verdict; what can't be read ends in SystemExit 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        model = keras.models.load_model(options.model)
        instances, labels, kind = read_data(options.data, options.rows)
        augmenter = getattr(model, "augmenter", None)
        if augmenter is None:
            augmenter = image_augmenter(options.kind or kind, instances.shape[1:])
        data = instances if labels is None else (instances, labels)
        title = f"{Path(options.model).name} on {Path(options.data).name}"
        verdict = write_report(model, data, options.output, augmenter, title, options.rows)
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        parser.error(str(error))
    print(f"{verdict}. Written: {options.output}")
    return 0 if verdict == "Healthy" else 1


def read_data(name: str, limit: int) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Instances, labels if there are any, and the kind of image.

    Args:
        name: an .npz file with `x` or `images`, and optionally `y` or `labels`; an .npy file of instances; or any set
            of images that `load_images` knows, of which the test images are taken.
        limit: most images to load of such a set.

    Returns:
        `(instances, labels or None, kind)`.

    Raises:
        ValueError: for an .npz file without instances; and as `load_images`.
        OSError: for a file that cannot be read.
    """
    if name.endswith(".npy"):
        instances = np.load(name)
        return instances, None, _kind(instances)
    if not name.endswith(".npz"):
        data = load_images(name, limit=limit)
        return data.test_images, data.test_labels, data.kind
    with np.load(name) as arrays:
        instances, labels = (_first(arrays, keys) for keys in (("x", "images"), ("y", "labels")))
        if instances is None:
            raise ValueError(f"`{name}` must hold an array `x` or `images`. Received: {sorted(arrays)}. Rename it.")
    return instances, labels, _kind(instances)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m keras_tfcl.diagnostics",
        description="Writes one HTML page that tells whether an encoder is healthy.",
    )
    parser.add_argument("model", help="a .keras file: a ContrastiveModel, or an encoder")
    parser.add_argument("data", help="an .npz (x, y) or .npy file, mnist5k, folder:PATH or a tensorflow_datasets name")
    parser.add_argument("-o", "--output", default="report.html", help="the page to write")
    parser.add_argument("--kind", choices=KINDS, help="kind of image, for views if the model has no augmenter")
    parser.add_argument("--rows", type=int, default=ROWS, help="most instances to look at")
    return parser


def _first(arrays: Any, keys: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[key] for key in keys if key in arrays), None)


def _kind(instances: np.ndarray) -> str:
    return "photos" if instances.ndim == 4 and instances.shape[-1] == 3 else "grey"
