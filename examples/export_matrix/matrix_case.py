"""What a case of the conversion matrix is, and how it is judged.

The judge is bare onnxruntime against `model.predict` on fresh rows: none of the checks that `export_onnx` made itself.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime

from keras_tfcl._keras_compat import nested_layers
from keras_tfcl.export import ExportError, export_onnx

Rows = Callable[[np.random.Generator], Any]
TOLERANCE = 1e-4  # of the embeddings' scale
MIN_COSINE = 0.99999


@dataclass(frozen=True)
class Case:
    """An encoder, rows for it, and whether it must match or be refused.

    `reference` gives the model to compare with where `predict` of the encoder itself is less exact than the file.
    """

    build: Callable[[], Any]
    rows: Rows
    refused: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: Callable[[Any], Any] = lambda model: model


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "matches", "refused", or what went wrong."""

    result: str
    relative: float | None
    cosine: float | None
    seconds: float
    detail: str


def judge(case: Case) -> Outcome:
    """Export the encoder of a case, and compare the file with it."""
    keras.utils.set_random_seed(1)
    model = unsettle(case.build())
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        try:
            export_onnx(model, path, normalize=False, **case.options)
        except ExportError as error:
            result = "WROTE A FILE AND RAISED" if os.listdir(folder) else "refused"
            detail = f"{type(error).__name__}: {error}".replace(f"{folder}/", "")
            return Outcome(result, None, None, time.perf_counter() - started, detail)
        except Exception as error:  # a fault of ours, shown in the table
            return Outcome("RAISED ANOTHER ERROR", None, None, 0.0, f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - started
        relative, cosine = compare(path, case.reference(model), case.rows(np.random.default_rng(7)))
    good = relative <= TOLERANCE and cosine >= MIN_COSINE
    return Outcome("matches" if good else "WROTE A BAD FILE", relative, cosine, seconds, "")


def compare(path: Path, model: Any, rows: Any) -> tuple[float, float]:
    """Return the largest difference relative to the scale, and the smallest cosine of a row."""
    expected = np.asarray(model.predict(rows, verbose=0), "float64")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]
    arrays = [rows[name] for name in names] if isinstance(rows, dict) else rows if isinstance(rows, list) else [rows]
    received = session.run(None, dict(zip(names, arrays, strict=True)))[0].astype("float64")
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(received, axis=1)
    cosines = (expected * received).sum(axis=1) / lengths
    return float(np.abs(expected - received).max() / np.abs(expected).max()), float(cosines.min())


def unsettle(model: Any) -> Any:
    """Give batch normalisation the statistics of a trained model: with mean 0 and variance 1 it hides its faults."""
    generator = np.random.default_rng(3)
    for layer in nested_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built:
            size = layer.moving_mean.shape
            layer.moving_mean.assign(generator.normal(0, 0.3, size))
            layer.moving_variance.assign(generator.uniform(0.5, 1.5, size))
    return model


def images(size: int = 16, dtype: str = "float32", high: int = 1) -> Rows:
    """Five square images with values below `high`."""
    return lambda generator: generator.uniform(0, high, (5, size, size, 3)).astype(dtype)


def vectors(*shape: int) -> Rows:
    """Five rows of normal numbers."""
    return lambda generator: generator.normal(size=(5, *shape)).astype("float32")


def tokens(length: int = 13, vocabulary: int = 40) -> Rows:
    """Five rows of labels of different lengths, padded with 0."""

    def rows(generator: np.random.Generator) -> np.ndarray:
        labels = generator.integers(1, vocabulary, (5, length))
        return np.where(np.arange(length) < generator.integers(1, length + 1, (5, 1)), labels, 0).astype("int32")

    return rows
