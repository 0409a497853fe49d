"""Checks of invariances, gradients against finite differences, and poles."""

from __future__ import annotations

from unittest import SkipTest

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.testing.batch import Batch, reduced, require, require_close, value_and_gradient, variant


def check_batch_permutation(loss: keras.losses.Loss, batch: Batch) -> None:
    """Permuting the samples permutes their losses."""
    order = np.random.default_rng(4).permutation(len(batch.labels))
    each = variant(loss, reduction="none")
    expected = np.asarray(each(*batch))[order]
    require_close(each(batch.labels[order], batch.embeddings[order]), expected, "Permuted samples.", 1e-6)


def check_view_swap(loss: keras.losses.Loss, batch: Batch) -> None:
    """Exchanging the views exchanges their losses."""
    if not batch.has_views or batch.embeddings.shape[1] < 2:
        raise SkipTest("the batch has a single view")
    each = variant(loss, reduction="none")
    expected = np.asarray(each(*batch))[:, ::-1]
    require_close(each(batch.labels, batch.embeddings[:, ::-1].copy()), expected, "Exchanged views.", 1e-6)


def check_rescaling(loss: keras.losses.Loss, batch: Batch) -> None:
    """The length of an embedding does not matter: each can be multiplied by a positive factor of its own."""
    factors = np.random.default_rng(5).uniform(0.01, 100.0, (*batch.embeddings.shape[:-1], 1))
    value, gradient = value_and_gradient(loss, *batch)
    scaled, scaled_gradient = value_and_gradient(loss, batch.labels, factors * batch.embeddings)
    require_close(scaled, value, "Rescaled embeddings.", 1e-6)
    message = "The gradient of rescaled embeddings is not divided by the factor."
    require_close(factors * scaled_gradient, gradient, message, 1e-6)


def check_rotation(loss: keras.losses.Loss, batch: Batch) -> None:
    """A rotation of all embeddings changes nothing."""
    size = batch.embeddings.shape[-1]
    rotation, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(size, size)))
    value, gradient = value_and_gradient(loss, *batch)
    rotated, rotated_gradient = value_and_gradient(loss, batch.labels, batch.embeddings @ rotation)
    require_close(rotated, value, "Rotated embeddings.", 1e-6)
    require_close(rotated_gradient, gradient @ rotation, "The gradient does not rotate with the embeddings.", 1e-6)


def check_gradient(loss: keras.losses.Loss, batch: Batch) -> None:
    """The gradient is the derivative of the value: central differences in float64 along random directions.

    A loss that stops gradients on purpose fails, and should be expected to.
    """
    loss = variant(reduced(loss), dtype="float64")
    _, gradient = value_and_gradient(loss, *batch)
    for seed in range(5):
        direction = np.random.default_rng(seed).normal(size=batch.embeddings.shape)
        values = [float(loss(batch.labels, batch.embeddings + step * direction)) for step in (1e-5, -1e-5)]
        expected, ours = (values[0] - values[1]) / 2e-5, float((gradient * direction).sum())
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        message = f"the gradient gives a derivative of {ours:.8g}, finite differences {expected:.8g}."
        require(abs(ours - expected) <= 1e-6 * scale + 1e-9, message)


def check_poles(loss: keras.losses.Loss, batch: Batch) -> None:
    """Equal, opposite, duplicated and zero embeddings give finite values and gradients, in half precision too."""
    loss = reduced(loss)
    for name, x in _poles(batch).items():
        for dtype in ("float16", "bfloat16", "float32"):
            value, gradient = value_and_gradient(loss, batch.labels, tf.cast(x, dtype))
            require(np.isfinite(value), f"{name}, {dtype}: the value is {value}.")
            require(np.isfinite(gradient).all(), f"{name}, {dtype}: the gradient is not finite.")


def check_duplicates(loss: keras.losses.Loss, batch: Batch) -> None:
    """A copy of a sample with the same label is a positive, with a finite value and gradient."""
    labels, x = (
        np.concatenate([batch.labels, batch.labels[:1]]),
        np.concatenate([batch.embeddings, batch.embeddings[:1]]),
    )
    as_positive, gradient = value_and_gradient(variant(loss, reduction="sum"), labels, x)
    require(np.isfinite(as_positive), f"a copy with the same label: the value is {as_positive}.")
    require(np.isfinite(gradient).all(), "a copy with the same label: the gradient is not finite.")
    each = np.asarray(variant(loss, reduction="none")(labels, x))
    require_close(each[-1], each[0], "A copy and its original have different losses.", 1e-6)


def _poles(batch: Batch) -> dict[str, np.ndarray]:
    first_of = {i: np.flatnonzero(batch.flat()[0] == i)[0] for i in np.unique(batch.labels)}
    names = ("equal positives", "opposite positives", "duplicate", "opposite negative", "all equal", "zero", "all zero")
    poles = {name: Batch(batch.labels, batch.embeddings.copy()) for name in names}
    rows = {name: pole.flat() for name, pole in poles.items()}
    for row, i in enumerate(rows["zero"][0]):
        first = rows["zero"][1][first_of[i]]
        rows["equal positives"][1][row] = first
        rows["opposite positives"][1][row] = first if row == first_of[i] else -first
    rows["duplicate"][1][-1] = rows["duplicate"][1][0]
    rows["opposite negative"][1][-1] = -rows["opposite negative"][1][0]
    rows["all equal"][1][:] = rows["all equal"][1][0]
    rows["zero"][1][1] = 0.0
    rows["all zero"][1][:] = 0.0
    return {name: pole.embeddings for name, pole in poles.items()}
