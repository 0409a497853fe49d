"""Checks of configuration, saving, reductions, weights and dtypes."""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.testing.batch import Batch, require, require_close, value_and_gradient, variant

HALF_PRECISION = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # unit roundoff


def check_config(loss: keras.losses.Loss, batch: Batch) -> None:
    """Every constructor argument comes back through `get_config`, JSON and `from_config`, dtype and reduction too."""
    missing = sorted(_arguments(type(loss)) - set(loss.get_config()))
    require(not missing, f"get_config leaves out the constructor's {missing}.")
    for changes in ({}, {"reduction": "sum", "name": "other"}, {"dtype": "float64"}):
        original = variant(loss, **changes)
        text = json.dumps(keras.saving.serialize_keras_object(original))
        copy = keras.saving.deserialize_keras_object(json.loads(text))
        require(type(copy) is type(loss), f"deserialised as {type(copy).__name__}.")
        require(copy.get_config() == original.get_config(), "get_config differs after a round trip.")
        for name in ("name", "reduction", "dtype"):
            before, after = changes.get(name, getattr(loss, name)), getattr(copy, name)
            require(before == after, f"{name} is {after!r} after a round trip, was {before!r}.")
        require_close(copy(*batch), original(*batch), "The value differs after a round trip.", 1e-7)


def check_saving(loss: keras.losses.Loss, batch: Batch) -> None:
    """A model compiled with the loss is saved as .keras, loads, and evaluates to the same value."""
    loss, x = variant(loss, reduction="sum_over_batch_size"), batch.embeddings.astype("float32")
    model = keras.Sequential([keras.Input((x[0].size,)), keras.layers.Reshape(x.shape[1:])])
    model.compile("sgd", loss=loss, run_eagerly=True)
    rows = x.reshape(len(x), -1)
    expected = model.evaluate(rows, batch.labels, batch_size=len(x), verbose=0)
    require_close(expected, loss(batch.labels, x), "model.evaluate and the loss differ.")
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        loaded = keras.models.load_model(Path(folder) / "model.keras")
    require(loaded.loss.get_config() == loss.get_config(), "the loaded model's loss has another configuration.")
    value = loaded.evaluate(rows, batch.labels, batch_size=len(x), verbose=0)
    require_close(value, expected, "The loaded model evaluates to another value.", 1e-6)


def check_reductions(loss: keras.losses.Loss, batch: Batch) -> None:
    """Each reduction agrees with the weighted losses of the anchors; means leave out anchors without a positive."""
    valid = batch.has_positive()
    weight = np.random.default_rng(3).uniform(0.5, 2.0, len(batch.labels))
    each = np.asarray(variant(loss, reduction="none")(*batch), "float64")
    require(each.shape == valid.shape, f"reduction='none' gives shape {each.shape}, expected {valid.shape}.")
    every = np.broadcast_to(weight.reshape(-1, *[1] * (valid.ndim - 1)), valid.shape)
    total = (each * every).sum()
    expected = {
        "none": each * every,
        "sum": total,
        "mean": total / valid.sum(),
        "sum_over_batch_size": total / valid.sum(),
        "mean_with_sample_weight": total / every[valid].sum(),
    }
    for reduction, value in expected.items():
        actual = variant(loss, reduction=reduction)(*batch, sample_weight=weight)
        require_close(actual, value, f"reduction={reduction!r} with weights.")
    require_close(variant(loss, reduction="sum")(*batch), each.sum(), "reduction='sum'.")


def check_dtypes(loss: keras.losses.Loss, batch: Batch) -> None:
    """Half-precision embeddings lose nothing but their own rounding; gradient and result have the promised dtypes."""
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        x = tf.cast(batch.embeddings, dtype)
        value, gradient = value_and_gradient(loss, batch.labels, x)
        exact, exact_gradient = value_and_gradient(loss, batch.labels, tf.cast(x, "float64"))
        require_close(value, exact, f"{dtype} embeddings: value against float64.", 1e-5)
        rounding = max(HALF_PRECISION.get(dtype, 0.0), 1e-5)
        require_close(gradient, exact_gradient, f"{dtype} embeddings: gradient against float64.", 2 * rounding)
    for dtype in ("float32", "float64"):
        result = variant(loss, dtype=dtype)(*batch).dtype
        require(result == dtype, f"dtype={dtype!r} gives a result of {result}.")


def check_dtype_policy(loss: keras.losses.Loss, batch: Batch) -> None:
    """A loss made under the policy mixed_float16 is as exact as one made without."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        config = _without_dtypes(keras.saving.serialize_keras_object(loss))
        value = keras.saving.deserialize_keras_object(config)(*batch)
    finally:
        keras.config.set_dtype_policy(before)
    require_close(value, variant(loss)(*batch), "mixed_float16 changes the value.")


def _arguments(cls: type) -> set[str]:
    """Names of the constructor's own arguments."""
    parameters = inspect.signature(cls).parameters.items()
    return {name for name, p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def _without_dtypes(config: object) -> object:
    """A serialised object without the dtypes that it and its layers were made with."""
    if isinstance(config, dict):
        return {key: _without_dtypes(value) for key, value in config.items() if key != "dtype"}
    return config
