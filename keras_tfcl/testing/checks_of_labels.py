"""Checks of positives, negatives, and labels that must stay integers."""

from __future__ import annotations

from unittest import SkipTest

import keras
import numpy as np

from keras_tfcl.testing.batch import Batch, reduced, require, require_close, value_and_gradient, variant


def check_integer_labels(loss: keras.losses.Loss, batch: Batch) -> None:
    """Labels that are equal only after a cast to float stay different, in any loss dtype and as a column."""
    _, compact = np.unique(batch.labels, return_inverse=True)
    expected = loss(compact, batch.embeddings)
    for dtype, start in (("float16", 2048), ("float32", 2**24), ("float64", 2**53)):
        value = variant(loss, dtype=dtype)(compact + start, batch.embeddings)
        require_close(value, expected, f"Labels from {start} on are mixed up by dtype={dtype!r}.", 2e-3)
    require_close(loss(compact[:, None], batch.embeddings), expected, "Labels of shape (B, 1).", 1e-6)


def check_attraction(loss: keras.losses.Loss, batch: Batch) -> None:
    """Turning an embedding away from its positive raises the loss, away from a negative lowers it."""
    for labels, order, word in (([0, 1], [0, 1, 2, 3], "positive"), ([0, 1], [0, 2, 3, 1], "negative")):
        change = _change_per_radian(loss, batch, np.array(labels), order)
        sign = 1 if word == "positive" else -1
        require(sign * change > 0, f"turning away from a {word} changes the loss by {change:.3g} a radian.")


def check_same_label_is_no_negative(loss: keras.losses.Loss, batch: Batch) -> None:
    """Spreading out a class, orthogonal to all others, never lowers the loss: equal labels do not repel."""
    loss, size = reduced(loss), max(batch.embeddings.shape[-1], 3)
    labels, x = np.array([0, 0, 1, 1]), _in_layout(np.repeat(np.eye(2, size), 2, axis=0), batch, views=2)
    perfect, _ = value_and_gradient(loss, labels, x)
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(0, 0.3, x.shape) * (x[..., :1] > 0)
        noise[..., 1] = 0.0
        worse, _ = value_and_gradient(loss, labels, x + noise)
        require(perfect <= worse + 1e-6, f"spreading out a class lowers the loss from {perfect:.6g} to {worse:.6g}.")


def check_perfect_below_random(loss: keras.losses.Loss, batch: Batch) -> None:
    """Equal embeddings for equal labels, orthogonal ones for others, have a lower loss than the batch."""
    _, compact = np.unique(batch.labels, return_inverse=True)
    codes = np.eye(max(compact.max() + 1, 2))[compact]
    if batch.has_views:
        codes = np.repeat(codes[:, None], batch.embeddings.shape[1], axis=1)
    loss = reduced(loss)
    perfect, _ = value_and_gradient(loss, batch.labels, codes)
    random, _ = value_and_gradient(loss, batch.labels, batch.embeddings)
    require(perfect < random, f"perfect embeddings have loss {perfect:.6g}, random ones {random:.6g}.")


def check_samples_without_positive(loss: keras.losses.Loss, batch: Batch) -> None:
    """A sample whose label occurs once has loss 0, does not count in the mean, and is a negative of the others."""
    labels, x = np.array([0, 0, 1, 1, 2, 3]), _in_layout(batch.flat()[1][:6], batch, views=1)
    require(len(x) == 6, "needs a batch of six embeddings at least.")
    try:
        each = np.asarray(variant(loss, reduction="none")(labels, x), "float64").ravel()
    except ValueError as refusal:
        raise SkipTest(f"refuses a single view: {refusal}") from None
    require((each[4:] == 0).all(), f"samples without a positive have loss {each[4:]}.")
    mean, gradient = value_and_gradient(variant(loss, reduction="mean"), labels, x)
    require_close(mean, each[:4].mean(), "Samples without a positive count in the mean.")
    require(np.isfinite(gradient).all(), "the gradient is not finite.")
    alone = variant(loss, reduction="none")(labels[:4], x[:4])
    require(
        np.abs(np.asarray(alone, "float64").ravel() - each[:4]).max() > 1e-9, "they are no negatives of the others."
    )


def check_no_positives(loss: keras.losses.Loss, batch: Batch) -> None:
    """A batch without any positive gives 0 and no gradient, never NaN."""
    x = _in_layout(batch.flat()[1], batch, views=1)
    try:
        value, gradient = value_and_gradient(loss, np.arange(len(x)), x)
    except ValueError as refusal:
        raise SkipTest(f"refuses a single view: {refusal}") from None
    require((value == 0).all(), f"the loss is {value}.")
    require((gradient == 0).all(), "the gradient is not 0.")


def _change_per_radian(loss: keras.losses.Loss, batch: Batch, labels: np.ndarray, order: list[int]) -> float:
    """The change of the loss per radian as the second of two embeddings at an angle of 0.6 turns away from the first.

    Of four embeddings the first two span a plane, the others are orthogonal to it and at an angle of 0.6 too. `order`
    gives the rows of the two samples' two views.
    """

    def value(angle: float) -> float:
        x = np.zeros((4, 4))
        x[0, 0], x[2, 2] = 1.0, 1.0
        x[1, :2] = np.cos(angle), np.sin(angle)
        x[3, 2:] = np.cos(0.6), np.sin(0.6)
        rows = x[order]
        rows = rows.reshape(2, 2, 4) if batch.has_views else rows
        return float(variant(loss, dtype="float64", reduction="sum")(_labels_for(labels, batch), rows))

    return (value(0.6 + 1e-4) - value(0.6 - 1e-4)) / 2e-4


def _labels_for(labels: np.ndarray, batch: Batch) -> np.ndarray:
    return labels if batch.has_views else np.repeat(labels, 2)


def _in_layout(x: np.ndarray, batch: Batch, views: int) -> np.ndarray:
    """Embeddings `(N, D)` in the layout of the batch: unchanged, or each repeated as its own views."""
    return np.repeat(x[:, None], views, axis=1) if batch.has_views else x
