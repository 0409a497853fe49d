"""Losses of pairs that have a score: one cosine for each pair, compared with its score or with other pairs."""

from __future__ import annotations

import tensorflow as tf
from keras import ops

from keras_tfcl.ops.pairwise import NOTHING
from keras_tfcl.ops.similarity import l2_normalize
from keras_tfcl.typing import Tensor


def pair_cosines(embeddings: Tensor) -> Tensor:
    """Computes the cosine of each pair, float64 `(B,)`, of embeddings `(B, 2, D)`.

    Example:

    >>> pair_cosines(np.array([[[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])).numpy()
    array([1., 0.])
    """
    units = l2_normalize(ops.cast(embeddings, "float64"))
    return ops.sum(units[:, 0] * units[:, 1], axis=-1)


def cosent_loss(cosines: Tensor, scores: Tensor, scale: float = 20.0, weight: Tensor | None = None) -> Tensor:
    """Computes the CoSENT loss: pairs with a higher score should have a higher cosine.

    Formula: `log(1 + sum of w_i w_j exp(scale * (s_j - s_i)))` over all i, j with `score_i > score_j`. Pairs are sorted
    by score, so that time grows as `B log B` and memory as B.

    Args:
        cosines: `(B,)`, of the pairs.
        scores: `(B,)`, only their order matters.
        scale: positive number.
        weight: `(B,)`, at least 0. None: 1 for all.

    Returns:
        A scalar, 0 if all scores are equal.

    Example:

    >>> round(float(cosent_loss(np.array([0.5, 0.6]), np.array([1.0, 0.0]), scale=10.0)), 4)  # log(1 + e)
    1.3133

    Reference: Huang et al. 2024, "CoSENT: Consistent Sentence Embedding via Similarity Ranking", IEEE/ACM TASLP.
    """
    cosines, scores = tf.convert_to_tensor(cosines), tf.convert_to_tensor(scores)
    order = tf.argsort(scores)
    scores, logits = tf.gather(scores, order), scale * tf.gather(cosines, order)
    weight = tf.ones_like(logits) if weight is None else tf.gather(tf.cast(weight, logits.dtype), order)
    log_weight = tf.where(weight > 0, tf.math.log(tf.where(weight > 0, weight, 1.0)), NOTHING)
    log_sums = tf.math.cumulative_logsumexp(log_weight + logits, exclusive=True)
    lower = tf.searchsorted(scores, scores)  # how many pairs have a lower score
    terms = tf.where(lower > 0, tf.gather(log_sums, lower) + log_weight - logits, NOTHING)
    loss = tf.nn.softplus(tf.reduce_logsumexp(terms))
    return tf.where(tf.reduce_all(tf.math.is_finite(weight)), loss, float("nan"))


def contrastive_pair_losses(cosines: Tensor, labels: Tensor, margin: float = 0.5) -> Tensor:
    """Computes the contrastive loss of each pair from its label, 1 for similar and 0 for dissimilar.

    Formula, with the distance `d = 1 - s`: `d^2 / 2` for similar pairs, `max(margin - d, 0)^2 / 2` for dissimilar ones.

    Args:
        cosines: `(B,)`, of the pairs.
        labels: `(B,)`, 0 or 1.
        margin: the distance from which dissimilar pairs no longer repel.

    Returns:
        `(B,)`.

    Example:

    >>> contrastive_pair_losses(np.array([0.8, 0.8, 0.2]), np.array([1.0, 0.0, 0.0])).numpy().round(3)
    array([0.02 , 0.045, 0.   ])

    Reference: Hadsell et al. 2006, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR.
    """
    distance = 1.0 - cosines
    return 0.5 * ops.where(labels > 0.5, distance, ops.relu(margin - distance)) ** 2
