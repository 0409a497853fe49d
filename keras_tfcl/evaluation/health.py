"""Statistics that tell a healthy embedding from a collapsed one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tfcl.evaluation.checks import check_views, unit_vectors
from keras_tfcl.evaluation.geometry import effective_rank

SATURATED = 0.99  # an anchor's softmax has more than this on one candidate
NEAR_DUPLICATE = 0.9995  # cosine of unaltered samples above which they count as copies of one


@dataclass(frozen=True)
class Health:
    """The statistics of `embedding_health`; shares and cosines are means over anchors.

    Attributes:
        samples: number of samples.
        dimension: D.
        effective_rank: dimensions in use, from 0 (a point) to at most min(D, samples - 1).
        positive_cosine: cosine of the two views of a sample.
        negative_cosine: cosine of different samples.
        saturated: share of anchors whose softmax has more than 0.99 on one candidate; NaN without a scaling.
        hardest_share: the share of the nearest negative in the gradient of all negatives with respect to their cosines;
            1 / negatives if all are equal, NaN without a scaling.
        near_duplicates: share of samples with a near-duplicate among the others: cosine above 0.9995, without
            augmentation and after the mean is subtracted; NaN if unaltered samples were not given.
        finite: whether all embeddings are finite. If not, all other statistics are NaN.
    """

    samples: int
    dimension: int
    effective_rank: float
    positive_cosine: float
    negative_cosine: float
    saturated: float
    hardest_share: float
    near_duplicates: float
    finite: bool = True


def embedding_health(
    views: ArrayLike, scaling: Callable[[tf.Tensor], tf.Tensor] | None = None, unaltered: ArrayLike | None = None
) -> Health:
    """Computes the statistics that `diagnose` reads: rank, cosines, and how the softmax spreads over the candidates.

    An anchor is the first view of a sample; its candidates are the second views of all samples. Memory is a few times
    N^2 * 8 bytes; a thousand samples are enough.

    Args:
        views: embeddings `(N, V, D)` of V >= 2 views, as the loss sees them; need not be normalised.
        scaling: TensorFlow function from cosines to logits, such as `loss.scaling`. Defaults to None: no softmax.
        unaltered: embeddings `(N, F)` of the same samples without augmentation. Defaults to None.

    Returns:
        `Health`.

    Raises:
        ValueError: for views of another shape, or a single sample.

    Example:

    >>> views = np.random.default_rng(0).normal(size=(64, 1, 8)).repeat(2, axis=1)
    >>> health = embedding_health(views, keras_tfcl.Temperature(0.5))
    >>> round(health.positive_cosine, 3), health.effective_rank > 7
    (1.0, True)
    """
    views, nan = np.asarray(views).astype("float64"), float("nan")
    check_views(views)
    if not np.isfinite(views).all():
        return Health(len(views), views.shape[2], nan, nan, nan, nan, nan, nan, finite=False)
    unit = unit_vectors(views)
    cosines = unit[:, 0] @ unit[:, 1].T  # (N, N), positives on the diagonal
    saturated, hardest_share = (nan, nan) if scaling is None else _softmax_statistics(cosines, scaling)
    return Health(
        samples=len(views),
        dimension=views.shape[2],
        effective_rank=float(effective_rank(views[:, 0])),
        positive_cosine=float(cosines.diagonal().mean()),
        negative_cosine=float(cosines[~np.eye(len(views), dtype=bool)].mean()),
        saturated=saturated,
        hardest_share=hardest_share,
        near_duplicates=nan if unaltered is None else _near_duplicates(unaltered),
    )


def logits_and_derivatives(
    cosines: np.ndarray, scaling: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """A scaling's logits of float64 cosines, and their derivatives with respect to the cosines, by a tape."""
    cosines = tf.constant(cosines)
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        logits = scaling(cosines)
    return np.array(logits, "float64"), np.array(tape.gradient(logits, cosines), "float64")


def _softmax_statistics(cosines: np.ndarray, scaling: Callable[[tf.Tensor], tf.Tensor]) -> tuple[float, float]:
    logits, derivative = logits_and_derivatives(cosines, scaling)
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    saturated = np.mean(weight.max(axis=1) / weight.sum(axis=1) > SATURATED)
    np.fill_diagonal(logits, -np.inf)
    gradient = np.exp(logits - logits.max(axis=1, keepdims=True)) * derivative
    return float(saturated), float(np.mean(gradient.max(axis=1) / gradient.sum(axis=1)))


def _near_duplicates(unaltered: ArrayLike) -> float:
    unaltered = np.asarray(unaltered)
    unit = unit_vectors(unaltered.reshape(len(unaltered), -1))
    unit = unit_vectors(unit - unit.mean(axis=0))  # in a narrow cone all would look like copies
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1.0)
    return float(np.mean(cosines.max(axis=1) > NEAR_DUPLICATE))
