"""Images for wang_liu_2021.py: a fixed random part of a set, decoded once and kept as .npz under runs/."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow as tf

from keras_tfcl.atomic_write import atomic_write
from keras_tfcl.data.images import ImageData, load_images

CACHE = Path("runs/wang_liu_2021")


def load_data(name: str, train_images: int, test_images: int) -> ImageData:
    """The images of a zip file, or of any set that `load_images` knows; the same ones each time."""
    if not name.endswith(".zip"):
        data = load_images(name, limit=max(train_images, test_images))
        train = data.train_images[:train_images], data.train_labels[:train_images]
        return ImageData(
            data.name, data.kind, *train, data.test_images[:test_images], data.test_labels[:test_images],
            class_names=data.class_names,
        )  # fmt: skip
    cache = CACHE / f"{Path(name).stem}_{train_images}_{test_images}.npz"
    if not cache.exists():
        save(cache, read_zip(Path(name), train_images, test_images))
    with np.load(cache) as arrays:
        parts = {key: arrays[key] for key in arrays}
    class_names = tuple(parts.pop("class_names").tolist())
    return ImageData(Path(name).stem, "photos", **parts, class_names=class_names)


def read_zip(path: Path, train_images: int, test_images: int) -> dict[str, np.ndarray]:
    """Decodes a random part of NAME/{train,test}/label/file.jpg."""
    parts = {}
    with zipfile.ZipFile(path) as archive:
        files = [PurePosixPath(file) for file in sorted(archive.namelist()) if file.endswith(".jpg")]
        class_names = sorted({file.parts[-2] for file in files})
        for split, count in (("train", train_images), ("test", test_images)):
            own = [file for file in files if file.parts[-3] == split]
            chosen = [own[i] for i in np.random.default_rng(0).permutation(len(own))[:count]]
            images = [tf.io.decode_jpeg(archive.read(str(file)), channels=3).numpy() for file in chosen]
            parts[f"{split}_images"] = np.stack(images)
            parts[f"{split}_labels"] = np.array([class_names.index(file.parts[-2]) for file in chosen])
    return {**parts, "class_names": np.array(class_names)}


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as draft:
        np.savez(draft, **arrays)
