"""A batch on which losses are checked, and helpers of the checks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tfcl.typing import Tensor


class Batch(NamedTuple):
    """Labels `(B,)` and float64 embeddings `(B, D)` or `(B, V, D)`."""

    labels: np.ndarray
    embeddings: np.ndarray

    @classmethod
    def of(cls, labels: ArrayLike, embeddings: ArrayLike) -> Batch:
        """From anything array-like."""
        return cls(np.asarray(labels), np.asarray(embeddings, "float64"))

    @property
    def has_views(self) -> bool:
        return self.embeddings.ndim == 3

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """Label `(N,)` and embedding `(N, D)` of every view; the embeddings are a view on this batch."""
        views = self.embeddings.shape[1] if self.has_views else 1
        return np.repeat(self.labels, views), self.embeddings.reshape(-1, self.embeddings.shape[-1])

    def has_positive(self) -> np.ndarray:
        """Whether another embedding has the same label: bool, in the shape of the losses."""
        labels, _ = self.flat()
        return ((labels[:, None] == labels).sum(1) > 1).reshape(self.embeddings.shape[:-1])


def default_batch() -> Batch:
    """Six samples in two views, with row numbers as labels."""
    return Batch(np.arange(6), np.random.default_rng(0).normal(size=(6, 2, 5)))


def variant(loss: keras.losses.Loss, **changes: object) -> keras.losses.Loss:
    """A copy of the loss with some constructor arguments changed."""
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    return type(loss).from_config({**copy.get_config(), **changes}) if changes else copy


def reduced(loss: keras.losses.Loss) -> keras.losses.Loss:
    """The loss, or where it gives one value an anchor, a copy that gives their mean."""
    return variant(loss, reduction="sum_over_batch_size") if loss.reduction in (None, "none") else loss


def value_and_gradient(
    loss: Callable[..., Tensor], labels: ArrayLike, embeddings: ArrayLike, *more: ArrayLike | None
) -> tuple[np.ndarray, ...]:
    """Returns the value of a loss in eager mode and its gradient with respect to the embeddings, in float64.

    The gradients with respect to the variables `more` follow. Warnings about batches without positives are silenced.
    """
    x = tf.convert_to_tensor(embeddings)
    with warnings.catch_warnings(), tf.GradientTape() as tape:
        warnings.simplefilter("ignore")
        tape.watch(x)
        value = loss(labels, x)
    gradient, *others = tape.gradient(value, [x, *more])
    return (
        _float64(value),
        _float64(gradient),
        *(np.zeros(()) if other is None else _float64(other) for other in others),
    )


def require(condition: bool | np.bool_ | np.ndarray, message: str) -> None:
    """Raises AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def require_close(actual: ArrayLike, expected: ArrayLike, message: str, tolerance: float = 1e-5) -> None:
    """Raises AssertionError unless all entries agree, relative to the largest expected one."""
    actual, expected = _float64(actual), _float64(expected)
    require(actual.shape == expected.shape, f"{message} Shapes: {actual.shape} and {expected.shape}.")
    difference = float(np.abs(actual - expected).max(initial=0.0))
    bound = tolerance * max(float(np.abs(expected).max(initial=0.0)), 1e-2)
    require(difference <= bound, f"{message} They differ by {difference:.3g}, more than {bound:.3g}.")


def _float64(x: ArrayLike) -> np.ndarray:
    return tf.cast(tf.convert_to_tensor(x), "float64").numpy()
