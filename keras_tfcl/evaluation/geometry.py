"""Geometry of embeddings on the sphere: alignment, uniformity, tolerance, contrastive accuracy, rank."""

from __future__ import annotations

import math

import tensorflow as tf

from keras_tfcl.evaluation.pairs import (
    Strip,
    WeightedMean,
    as_batches,
    flatten_views,
    mean_over_anchors,
    mean_over_pairs,
)
from keras_tfcl.ops.hard import TIE
from keras_tfcl.ops.pair_rule import PairRule
from keras_tfcl.typing import TensorLike
from keras_tfcl.validation import positive_number

LARGEST_T = 20.0  # exp(-4 t), the smallest value of the kernel, must stay a normal float32
COINCIDE = 1e-10  # mean squared distance from the mean below which embeddings coincide: float32 rounds to 1e-13


def alignment(
    y_true: TensorLike,
    y_pred: TensorLike,
    sample_weight: TensorLike | None = None,
    alpha: float = 2.0,
    rule: PairRule | None = None,
) -> WeightedMean:
    """Computes the mean distance of positive pairs, `mean |u - v|^alpha`; see `keras_tfcl.Alignment`.

    Args:
        y_true: integer labels `(B,)` or `(B, 1)`, or multi-hot labels `(B, L)`.
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype, need not be normalised.
        sample_weight: `(B,)`; a pair's weight is the product of its samples' weights. Defaults to 1.
        alpha: exponent of the distance, above 0. Defaults to 2.
        rule: the `rule` of a loss, whose positives count. Defaults to None: those of a loss without arguments.

    Returns:
        `WeightedMean`, float64 scalars.

    Raises:
        ValueError: for labels that are not integers, and for inputs of another shape.

    Example:

    >>> float(keras_tfcl.evaluation.alignment([0, 0], np.eye(2)).value)
    2.0
    """
    return mean_over_pairs(
        as_batches(y_true, y_pred, sample_weight, rule),
        lambda strip: strip.squared_distance if alpha == 2 else tf.pow(strip.squared_distance, alpha / 2),
        lambda strip: strip.pairs.positive,
    )


def gaussian_potential(
    y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None, t: float = 2.0
) -> WeightedMean:
    """Computes the mean of `exp(-t |u - v|^2)` over pairs of different samples; uniformity is its `-log`.

    Arguments, errors and result are those of `alignment`, but `y_true` does not count; `t`, in (0, 20], is the width of
    the kernel, by default 2.

    Example:

    >>> mean = keras_tfcl.evaluation.gaussian_potential([0, 1], np.eye(2))
    >>> float(keras_tfcl.evaluation.uniformity(mean.value))
    4.0
    """
    check_width(t)
    return mean_over_pairs(
        as_batches(None, y_pred, sample_weight),
        lambda strip: tf.exp(-t * strip.squared_distance),
        lambda strip: ~strip.same_sample,
    )


def check_width(t: object) -> float:
    """Returns the width of the kernel as a float; raises ValueError unless it is a number in (0, 20]."""
    width = positive_number("t", t, "Use t=2.0, as in the paper.")
    if width > LARGEST_T:
        raise ValueError(f"`t` must be at most {LARGEST_T:g}. Received: t={t}. Use t=2.0, as in the paper.")
    return width


def uniformity(potential: tf.Tensor) -> tf.Tensor:
    """Computes uniformity `-log(potential)` from a mean `gaussian_potential`; 0 if there was no pair.

    0 means that all embeddings coincide, `uniform_sphere(D, t)` that they are spread uniformly. The example of
    `gaussian_potential` computes it.
    """
    return tf.math.log(1 / tf.where(potential == 0, tf.ones_like(potential), potential))


def uniform_sphere(dimension: int, t: float = 2.0) -> float:
    """Computes the uniformity of the uniform distribution on the sphere of R^D: `2 t - log 0F1(; D/2; t^2)`.

    Example:

    >>> round(uniform_sphere(128), 3)
    3.938
    """
    term = total = 1.0
    for k in range(1, 200):  # the series converges within a few terms for any useful t
        term *= t**2 / (k * (dimension / 2 + k - 1))
        total += term
    return 2 * t - math.log(total)


def tolerance(y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None) -> WeightedMean:
    """Computes the mean cosine of different samples with the same label; see `keras_tfcl.Tolerance`.

    Arguments, errors and result are those of `alignment`.

    Example:

    >>> float(keras_tfcl.evaluation.tolerance([5, 5, 6], np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])).value)
    1.0
    """
    return mean_over_pairs(
        as_batches(y_true, y_pred, sample_weight),
        lambda strip: strip.similarity,
        lambda strip: strip.pairs.positive & ~strip.same_sample,
    )


def contrastive_accuracy(
    y_true: TensorLike,
    y_pred: TensorLike,
    sample_weight: TensorLike | None = None,
    k: int = 1,
    rule: PairRule | None = None,
) -> WeightedMean:
    """Computes the share of anchors with a positive among the k nearest; see `keras_tfcl.ContrastiveAccuracy`.

    Arguments, errors and result are those of `alignment`; `k` is the number of neighbours and defaults to 1.

    Example:

    >>> float(keras_tfcl.evaluation.contrastive_accuracy([3, 3, 4], [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]).value)
    1.0
    """

    def of_anchors(strip: Strip) -> tuple[tf.Tensor, tf.Tensor]:
        similarity, (positive, negative) = strip.similarity, strip.pairs  # (R, C)
        # A cosine is never below -1: -2 loses against every positive.
        best = tf.reduce_max(tf.where(positive, similarity, -2 * tf.ones_like(similarity)), axis=1, keepdims=True)
        as_near = ~(similarity < best - TIE[similarity.dtype.name])  # not `>=`: NaN is as near as any
        nearer = tf.reduce_sum(tf.cast(as_near & negative, "int32"), axis=1)  # (R,)
        weight = tf.gather(strip.batch.weight, strip.anchor) * tf.cast(
            tf.reduce_any(positive, axis=1), similarity.dtype
        )
        return weight * tf.cast(nearer < k, weight.dtype), weight

    return mean_over_anchors(as_batches(y_true, y_pred, sample_weight, rule), of_anchors)


def effective_rank(embeddings: TensorLike) -> tf.Tensor:
    """Computes how many dimensions embeddings use, from 0 (a point) to D; see `keras_tfcl.EffectiveRank`.

    Args:
        embeddings: `(N, D)` or `(N, V, D)`, need not be normalised.

    Returns:
        float64 scalar.

    Example:

    >>> round(float(keras_tfcl.evaluation.effective_rank([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
    2.0
    """
    unit = tf.cast(flatten_views(embeddings)[0], "float64")
    centred = unit - tf.reduce_mean(unit, axis=0)
    return rank_of_covariance(tf.matmul(centred, centred, transpose_a=True) / tf.cast(tf.shape(unit)[0], "float64"))


def rank_of_covariance(covariance: tf.Tensor) -> tf.Tensor:
    """`exp(-sum_k p_k log p_k)` with p the roots of the eigenvalues of a covariance `(D, D)`, divided by their sum.

    It is 0 where the trace is below 1e-10, and NaN where the covariance is not finite.
    """
    finite = tf.reduce_all(tf.math.is_finite(covariance))
    # The decomposition of a NaN is an error: it would end the training before TerminateOnNaN sees the loss.
    eigenvalues = tf.linalg.eigvalsh(tf.where(finite, covariance, tf.zeros_like(covariance)))
    sigma = tf.sqrt(tf.maximum(eigenvalues, 0))  # (D,)
    share = sigma / tf.maximum(tf.reduce_sum(sigma), 1e-30)
    entropy = -tf.reduce_sum(share * tf.math.log(tf.maximum(share, 1e-30)))
    rank = tf.where(tf.linalg.trace(covariance) > COINCIDE, tf.exp(entropy), tf.zeros_like(entropy))
    return tf.where(finite, rank, tf.constant(float("nan"), rank.dtype))
