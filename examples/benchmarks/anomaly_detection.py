"""Anomaly detection: an encoder is trained on normal samples only, and a sample is as anomalous as it is far from them.

    python examples/benchmarks/anomaly_detection.py train
    python examples/benchmarks/anomaly_detection.py test

The score of a sample is its mean distance to its five nearest normal training samples, between features of the encoder.
Validation and test have anomalies of their own: a temperature that is chosen on validation has seen no test anomaly.

Shuttle and Satellite are the UCI data as the R package mlbench ships them (Debian: `apt install r-cran-mlbench`; read
with `pip install rdata`), in the outlier forms of the literature. Breast cancer is part of scikit-learn.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from harness import Metrics, Task, Trained, main
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

import keras_tfcl

DIMENSION = 128  # of the projections
STEPS, BATCH = 400, 128
CORRUPTION = 0.6  # of the values of a view, as in SCARF
NEIGHBOURS = 5
REFERENCES = 5_000  # normal training samples, at most, that a sample is compared with
BASELINE_SEEDS = range(5)
R_LIBRARIES = ("/usr/local/lib/R/site-library", "/usr/lib/R/site-library", "/usr/lib/R/library")

# Name of the class column, classes that are anomalies, and classes that are left out.
MLBENCH = {
    "shuttle": ("Class", ("Bypass", "Fpv.Open", "Fpv.Close", "Bpv.Open", "Bpv.Close"), ("High",)),
    "satellite": ("classes", ("vegetation stubble", "cotton crop", "damp grey soil"), ()),
}


class Table(NamedTuple):
    """Samples `(N, F)` and whether each is an anomaly `(N,)`."""

    samples: np.ndarray
    anomalous: np.ndarray


class Split(NamedTuple):
    """Samples: normal ones for training, normal and anomalous ones for validation and for test."""

    train: np.ndarray
    validation: Table
    test: Table


class AnomalyDetection(Task):
    name = "anomaly_detection"
    metric = "auroc"

    def __init__(self) -> None:
        self.datasets = tuple(available())

    def dimension(self, dataset: str) -> int:
        return DIMENSION

    def train(self, dataset: str, loss: keras.losses.Loss, seed: int, tiny: bool) -> Trained:
        split = load_split(dataset)
        model = build_model(split.train.shape[1], seed)
        model.compile(optimizer(STEPS), loss=loss, jit_compile=False)
        samples = batches(split.train, 3 if tiny else STEPS, seed)
        model.fit(samples, batch_size=BATCH, shuffle=False, verbose=0)
        normal = split.validation.samples[~split.validation.anomalous]
        return Trained(scores_of(model, split), projections(model, normal[:1000]), None)

    def validate(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        return detection(load_split(dataset).validation.anomalous, outputs["validation_scores"])

    def test(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        return detection(load_split(dataset).test.anomalous, outputs["test_scores"])

    def baselines(self, dataset: str, tiny: bool) -> dict[str, Metrics]:
        """Distance and isolation forest of the standardised features, and the encoder before training."""
        split = load_split(dataset)
        raw = distances(split.train, split.test.samples)
        seeds = BASELINE_SEEDS[:1] if tiny else BASELINE_SEEDS
        forests = [IsolationForest(random_state=seed).fit(split.train) for seed in seeds]
        return {
            "raw features": detection(split.test.anomalous, raw),
            "isolation forest": mean(
                detection(split.test.anomalous, -forest.score_samples(split.test.samples)) for forest in forests
            ),
            "untrained": mean(detection(split.test.anomalous, untrained_scores(split, seed)) for seed in seeds),
        }


def available() -> list[str]:
    """The data sets that are installed; the others are named with the way to install them."""
    readable = importlib.util.find_spec("rdata") is not None
    missing = [name for name in MLBENCH if not (readable and mlbench_file(name))]
    if missing:
        print(f"left out: {', '.join(missing)} (apt install r-cran-mlbench; pip install rdata)")
    return [*(name for name in MLBENCH if name not in missing), "breast_cancer"]


def mlbench_file(name: str) -> Path | None:
    """Where R's package mlbench has a data set, or None."""
    files = [Path(library, "mlbench", "data", f"{name.capitalize()}.rda") for library in R_LIBRARIES]
    return next((file for file in files if file.exists()), None)


@functools.cache
def load_table(dataset: str) -> Table:
    """All samples of a data set.

    Raises:
        FileNotFoundError: if it is not installed.
    """
    if dataset == "breast_cancer":
        samples, benign = load_breast_cancer(return_X_y=True)
        return Table(samples, benign == 0)
    file = mlbench_file(dataset)
    if file is None:
        raise FileNotFoundError(
            f"{dataset} must be in {' or '.join(R_LIBRARIES)}. Received: no mlbench there. apt install r-cran-mlbench."
        )
    import rdata

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unknown encoding")  # all text in these files is ASCII
        frame = rdata.read_rda(file)[dataset.capitalize()]
    column, anomalous, left_out = MLBENCH[dataset]
    frame = frame[~frame[column].isin(left_out)]
    return Table(frame.drop(columns=column).to_numpy("float64"), frame[column].isin(anomalous).to_numpy())


@functools.cache
def load_split(dataset: str) -> Split:
    return split_table(load_table(dataset))


def split_table(table: Table) -> Split:
    """Splits normal samples 2 : 1 : 2 into training, validation and test, and anomalies 1 : 2 into the last two.

    The split is the same for all seeds. Mean and deviation, by which samples are standardised, are those of the normal
    training samples.
    """
    rng = np.random.default_rng(0)
    normal, anomalies = (rng.permutation(np.flatnonzero(table.anomalous == value)) for value in (False, True))
    train, validation, test = np.split(normal, [2 * len(normal) // 5, 3 * len(normal) // 5])
    validation_anomalies, test_anomalies = np.split(anomalies, [len(anomalies) // 3])
    scale = StandardScaler().fit(table.samples[train])

    def part(*indices: np.ndarray) -> Table:
        chosen = np.concatenate(indices)
        return Table(scale.transform(table.samples[chosen]).astype("float32"), table.anomalous[chosen])

    return Split(part(train).samples, part(validation, validation_anomalies), part(test, test_anomalies))


def batches(samples: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """Samples in the order in which the batches of one long epoch take them; no batch has a sample twice."""
    rng, rows = np.random.default_rng(seed), len(samples) // BATCH * BATCH
    order = [rng.permutation(len(samples))[:rows] for _ in range(-(-steps * BATCH // rows))]
    return samples[np.concatenate(order)[: steps * BATCH]]


class Corruption:
    """A view: some values are replaced by values that other samples of the batch have of the same feature (SCARF)."""

    def augment(self, samples: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        count, features = tf.unstack(tf.shape(samples))
        first, second = tf.unstack(tf.random.split(seed))
        others = tf.random.stateless_uniform([features, count], first, maxval=count, dtype="int32")
        replacement = tf.transpose(tf.gather(tf.transpose(samples), others, batch_dims=1))
        return tf.where(tf.random.stateless_uniform([count, features], second) < CORRUPTION, replacement, samples)


def build_model(features: int, seed: int) -> keras_tfcl.ContrastiveModel:
    layers = keras.layers
    encoder = keras.Sequential([keras.Input((features,))], name="encoder")
    for _ in range(2):
        encoder.add(layers.Dense(128, use_bias=False))
        encoder.add(layers.BatchNormalization(momentum=0.9))
        encoder.add(layers.ReLU())
    encoder.add(layers.Dense(128))
    projector = keras_tfcl.ProjectionHead((128, DIMENSION))
    return keras_tfcl.ContrastiveModel(encoder, projector=projector, augmenter=Corruption(), seed=seed)


def optimizer(steps: int) -> keras.optimizers.Optimizer:
    """Adam, whose steps do not depend on the size of the gradient: a temperature is no learning rate."""
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=2e-3, warmup_steps=20)
    return keras.optimizers.AdamW(rate, weight_decay=1e-4)


def projections(model: keras_tfcl.ContrastiveModel, samples: np.ndarray) -> np.ndarray:
    """What the loss sees of unaugmented samples."""
    return np.asarray(model((tf.constant(samples),), training=False))[:, 0]


def scores_of(model: keras_tfcl.ContrastiveModel, split: Split) -> dict[str, np.ndarray]:
    """Anomaly scores of validation and test samples. Features keep their lengths: some anomalies differ in size."""
    train, validation, test = (
        model.encoder.predict(part, batch_size=2048, verbose=0)
        for part in (split.train[:REFERENCES], split.validation.samples, split.test.samples)
    )
    return {"validation_scores": distances(train, validation), "test_scores": distances(train, test)}


def untrained_scores(split: Split, seed: int) -> np.ndarray:
    keras.utils.set_random_seed(seed)
    return scores_of(build_model(split.train.shape[1], seed), split)["test_scores"]


def distances(train: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The mean distance of each query to its nearest neighbours among the normal training samples."""
    search = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(train[:REFERENCES])
    return search.kneighbors(queries)[0].mean(axis=1).astype("float32")


def detection(anomalous: np.ndarray, scores: np.ndarray) -> Metrics:
    return {"auroc": roc_auc_score(anomalous, scores), "average_precision": average_precision_score(anomalous, scores)}


def mean(metrics: Iterator[Metrics]) -> Metrics:
    rows = list(metrics)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


if __name__ == "__main__":
    main(AnomalyDetection())
