"""Figures that tell a healthy embedding from a collapsed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tfcl.metrics import EffectiveRank

SATURATED = 0.99  # a row's softmax has more than this on one candidate
TWINS = 0.9995  # cosine of unaltered instances above which they count as copies of one
FEW = 1e-30


@dataclass(frozen=True)
class Health:
    """What `embedding_health` measures; shares and cosines are means over anchors.

    Attributes:
        rows: number of instances.
        dimension: D.
        effective_rank: dimensions in use, from 0 (a point) to at most min(D, rows - 1).
        positive_cosine: of the two views of an instance.
        negative_cosine: of different instances.
        saturated: share of anchors whose softmax lies for more than 0.99 on one candidate; NaN without a scaling.
        hardest_share: the largest share that one negative has of the negatives' gradient with respect to cosines,
            1 / negatives if all are alike; NaN without a scaling. It is the nearest negative's.
        twins: share of instances of which the set has another copy: cosine above 0.9995, without augmentation and
            around the mean; NaN if unaltered instances were not given.
        finite: whether every embedding was finite. If not, all figures are NaN.
    """

    rows: int
    dimension: int
    effective_rank: float
    positive_cosine: float
    negative_cosine: float
    saturated: float
    hardest_share: float
    twins: float
    finite: bool = True


def embedding_health(views: Any, scaling: Any = None, instances: Any = None) -> Health:
    """Measures embeddings for `find_faults`: rank, cosines, and how the loss's softmax spreads over the candidates.

    An anchor is the first view of an instance, its candidates are the second views of all. Memory is a few times
    N^2 * 8 bytes: a thousand instances are plenty.

    Args:
        views: embeddings `(N, V, D)` of V >= 2 views, as the loss sees them; need not be normalised.
        scaling: TensorFlow function from cosines to logits, such as `loss.scaling`. Defaults to None: no softmax.
        instances: embeddings `(N, F)` of the same instances, unaltered. Defaults to None.

    Returns:
        `Health`.

    Raises:
        ValueError: for views of another shape, or a single instance.

    Example:

    >>> views = np.random.default_rng(0).normal(size=(64, 1, 8)).repeat(2, axis=1)
    >>> health = embedding_health(views, keras_tfcl.Temperature(0.5))
    >>> round(health.positive_cosine, 3), health.effective_rank > 7
    (1.0, True)
    """
    views = np.asarray(views).astype("float64")
    if views.ndim != 3 or views.shape[1] < 2 or len(views) < 2:
        raise ValueError(
            f"`views` must be embeddings (N, V, D) with N >= 2 and V >= 2. Received: shape={views.shape}. "
            "Stack the embeddings of two augmented views: numpy.stack([first, second], axis=1)."
        )
    if not np.isfinite(views).all():
        nothing = float("nan")
        return Health(len(views), views.shape[2], *[nothing] * 6, finite=False)
    rank = EffectiveRank()
    rank.update_state(np.arange(len(views)), views[:, 0])
    cosines = _unit(views[:, 0]) @ _unit(views[:, 1]).T  # (N, N), positives on the diagonal
    negative = ~np.eye(len(views), dtype=bool)
    saturated, hardest = (float("nan"),) * 2 if scaling is None else _softmax_figures(cosines, scaling)
    return Health(
        rows=len(views),
        dimension=views.shape[2],
        effective_rank=float(rank.result()),
        positive_cosine=float(cosines.diagonal().mean()),
        negative_cosine=float(cosines[negative].mean()),
        saturated=saturated,
        hardest_share=hardest,
        twins=float("nan") if instances is None else _twins(instances),
    )


def _softmax_figures(cosines: np.ndarray, scaling: Any) -> tuple[float, float]:
    cosines = tf.constant(cosines)
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        scaled = scaling(cosines)
    slope = np.asarray(tape.gradient(scaled, cosines), "float64")  # of logits by cosines; constant for a temperature
    logits = np.array(scaled, "float64")  # a copy: a tensor's array is read-only
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    saturated = np.mean(weight.max(axis=1) / weight.sum(axis=1) > SATURATED)
    np.fill_diagonal(logits, -np.inf)
    gradient = np.exp(logits - logits.max(axis=1, keepdims=True)) * slope
    return float(saturated), float(np.mean(gradient.max(axis=1) / gradient.sum(axis=1)))


def _twins(instances: Any) -> float:
    rows = np.asarray(instances).astype("float64")
    unit = _unit(rows.reshape(len(rows), -1))
    unit = _unit(unit - unit.mean(axis=0))  # in a narrow cone all would look like copies
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1.0)
    return float(np.mean(cosines.max(axis=1) > TWINS))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), FEW)
