"""Anomaly detection on images: one class of Fashion-MNIST is normal, the nine others are anomalies.

    python examples/benchmarks/image_anomalies.py train --seeds 0 1 2 3 4
    python examples/benchmarks/image_anomalies.py test --seeds 0 1 2 3 4

Seed s takes class s (modulo 10) as normal, so that the mean over seeds is one over classes. The score of an image is
its mean distance to its five nearest normal training images, between L2-normalised features of the encoder.

The data are the four files of Fashion-MNIST (Debian: `apt install dataset-fashion-mnist`; elsewhere put them into
KERAS_TFCL_DATA/fashion-mnist).
"""

from __future__ import annotations

import functools
import gzip
import os
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from anomaly_detection import BATCH, Split, Table, batches, detection, distances, mean, optimizer
from harness import DATA, Metrics, Task, Trained, main
from sklearn.ensemble import IsolationForest

import keras_tfcl

CLASSES = 10
DIMENSION = 128  # of the projections
STEPS = 250
TRAIN, VALIDATION_NORMAL, VALIDATION_ANOMALIES = 5_000, 1_000, 2_000
FOLDERS = (Path("/usr/share/datasets/fashion-mnist"), DATA / "fashion-mnist")
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
BASELINE_CLASSES = range(5)  # those of the first five seeds


class ImageAnomalies(Task):
    name = "image_anomalies"
    metric = "auroc"

    def __init__(self) -> None:
        self.datasets = ("fashion_mnist",) if folder() else ()
        if not self.datasets:
            print("left out: fashion_mnist (apt install dataset-fashion-mnist)")

    def dimension(self, dataset: str) -> int:
        return DIMENSION

    def train(self, dataset: str, loss: keras.losses.Loss, seed: int, tiny: bool) -> Trained:
        split = load_split(seed % CLASSES)
        model = build_model(seed)
        model.compile(optimizer(STEPS), loss=loss, jit_compile=False)
        images = batches(split.train, 3 if tiny else STEPS, seed)
        model.fit(images, batch_size=BATCH, shuffle=False, verbose=0)
        normal = split.validation.samples[~split.validation.anomalous]
        projections = model((tf.constant(normal),), training=False)[:, 0].numpy()
        return Trained({"normal_class": np.array(seed % CLASSES), **scores_of(model, split)}, projections, None)

    def validate(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        split = load_split(int(outputs["normal_class"]))
        return detection(split.validation.anomalous, outputs["validation_scores"])

    def test(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        split = load_split(int(outputs["normal_class"]))
        return detection(split.test.anomalous, outputs["test_scores"])

    def baselines(self, dataset: str, tiny: bool) -> dict[str, Metrics]:
        """Distance and isolation forest of the pixels, and the encoder before training: means over classes."""
        splits = [load_split(normal) for normal in (BASELINE_CLASSES[:1] if tiny else BASELINE_CLASSES)]
        return {
            "raw pixels": mean(
                detection(split.test.anomalous, distances(pixels(split.train), pixels(split.test.samples)))
                for split in splits
            ),
            "isolation forest": mean(detection(split.test.anomalous, forest_scores(split)) for split in splits),
            "untrained": mean(
                detection(split.test.anomalous, untrained_scores(split, seed)) for seed, split in enumerate(splits)
            ),
        }


def folder() -> Path | None:
    """Where the four files are, or None."""
    return next((f for f in FOLDERS if all((f / file).exists() for pair in FILES.values() for file in pair)), None)


def read_idx(content: bytes) -> np.ndarray:
    """The array of an idx file of bytes: a magic number whose last byte counts dimensions, their sizes, the values."""
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape.astype(int))


@functools.cache
def load_images(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `(N, 28, 28, 1)` and labels `(N,)` of `"train"` or `"test"`."""
    found = folder()
    if found is None:
        raise FileNotFoundError(
            f"Fashion-MNIST must be in one of {', '.join(map(str, FOLDERS))}. Received: none of its files there. "
            "apt install dataset-fashion-mnist, or copy its four files."
        )
    images, labels = (read_idx(gzip.decompress((found / file).read_bytes())) for file in FILES[part])
    return images[..., None], labels


@functools.cache
def load_split(normal: int) -> Split:
    """Training and validation from the 60,000 training images, test from the 10,000 test images."""
    images, labels = load_images("train")
    rng = np.random.default_rng(normal)
    own, others = (rng.permutation(np.flatnonzero((labels == normal) == value)) for value in (True, False))
    held_out = np.concatenate([own[TRAIN : TRAIN + VALIDATION_NORMAL], others[:VALIDATION_ANOMALIES]])
    test_images, test_labels = load_images("test")
    return Split(
        images[own[:TRAIN]],
        Table(images[held_out], labels[held_out] != normal),
        Table(test_images, test_labels != normal),
    )


def build_model(seed: int) -> keras_tfcl.ContrastiveModel:
    """Three convolutions with stride 2: 0.6 million multiply-adds an image."""
    layers = keras.layers
    encoder = keras.Sequential([keras.Input((28, 28, 1)), layers.Rescaling(1 / 127.5, offset=-1)], name="encoder")
    for filters in (16, 32, 64):
        encoder.add(layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False))
        encoder.add(layers.BatchNormalization(momentum=0.9))
        encoder.add(layers.ReLU())
    encoder.add(layers.Flatten())
    encoder.add(layers.Dense(128))
    return keras_tfcl.ContrastiveModel(
        encoder,
        projector=keras_tfcl.ProjectionHead((128, DIMENSION)),
        augmenter=keras_tfcl.layers.image_augmenter("grey", (28, 28, 1)),
        seed=seed,
    )


def scores_of(model: keras_tfcl.ContrastiveModel, split: Split) -> dict[str, np.ndarray]:
    """Anomaly scores of validation and test images."""
    train, validation, test = (
        model.predict(images, batch_size=1000, verbose=0)
        for images in (split.train, split.validation.samples, split.test.samples)
    )
    return {"validation_scores": distances(train, validation), "test_scores": distances(train, test)}


def untrained_scores(split: Split, seed: int) -> np.ndarray:
    keras.utils.set_random_seed(seed)
    return scores_of(build_model(seed), split)["test_scores"]


def forest_scores(split: Split) -> np.ndarray:
    forest = IsolationForest(random_state=0).fit(pixels(split.train))
    return -forest.score_samples(pixels(split.test.samples))


def pixels(images: np.ndarray) -> np.ndarray:
    """Each image as a vector in 0..1."""
    return images.reshape(len(images), -1).astype("float32") / 255


if __name__ == "__main__":
    main(ImageAnomalies())
