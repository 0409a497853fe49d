"""Functions from cosine to logit, the only step in which losses with and without a temperature differ."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf
from keras import ops

from keras_tfcl.ops.similarity import at_least_float32
from keras_tfcl.typing import Tensor

# The smallest shift that exceeds the rounding of a float32 dot product of unit vectors (up to 8e-7): below it, noise
# would decide how hard near-duplicates repel.
POLE_SHIFT = 1e-6


def temperature_logits(similarity: Tensor, temperature: Tensor) -> Tensor:
    """Computes `logit = s / temperature` (SimCLR: Chen et al. 2020, arXiv 2002.05709).

    Args:
        similarity: cosines, any shape and float dtype.
        temperature: positive number or scalar tensor.

    Returns:
        Logits of the same shape, float32 at least.

    Example:

    >>> temperature_logits(np.array([1.0, 0.0], "float32"), 0.5).numpy()
    array([2., 0.], dtype=float32)
    """
    similarity = at_least_float32(similarity)
    return similarity / ops.convert_to_tensor(temperature, dtype=similarity.dtype)


def arctanh_logits(similarity: Tensor, scale: float = 2.0) -> Tensor:
    """Computes `logit = scale * arctanh(s)`, finite at both poles.

    Formula: `scale/2 * log((1 + s + e) / (1 - s + e))` with e = 1e-6, which is `scale * arctanh(s)` up to an error of
    `scale/2 * e * 2s / (1 - s^2)`: 1e-5 at s = 0.9 for scale 2. Cosines beyond +-1 by rounding are treated as +-1.

    At s = +-1 the logit is `+-scale/2 * log(2/e + 1)` (+-14.5 for scale 2) with slope `scale/2 * (1/e + 1/(2 + e))`.
    Unlike with a clip, the slope is not zero there: identical views still have the finite limit of the positive's
    gradient, and near-duplicate negatives still repel each other.

    Args:
        similarity: cosines, any shape and float dtype.
        scale: positive factor. 2 makes the logit the log-odds of the probability (1 + s) / 2.

    Returns:
        Logits of the same shape, float32 at least.

    Example:

    >>> arctanh_logits(np.array([0.0, 0.5], "float32")).numpy().round(3)
    array([0.   , 1.099], dtype=float32)

    Reference: Kim and Kim 2025, "Temperature-Free Loss Function for Contrastive Learning", arXiv 2501.17683. The shift
    at the poles is ours.
    """
    numerator, denominator = _odds(similarity)
    return (scale / 2.0) * (ops.log(numerator) - ops.log(denominator))


def arctanh_exp(similarity: Tensor, scale: float, shift: float = 0.0) -> Tensor:
    """`exp(arctanh_logits(similarity, scale) + shift)`, rational for scale 2 and 4.

    Example:

    >>> arctanh_exp(np.array([0.0, 0.5], "float32"), 2.0).numpy().round(3)
    array([1., 3.], dtype=float32)
    """
    numerator, denominator = _odds(similarity)
    odds, exponent = numerator / denominator, scale / 2.0
    if exponent == 0.5:
        power = ops.sqrt(odds)
    elif exponent in (1.0, 2.0):
        power = odds if exponent == 1.0 else odds * odds
    else:
        power = ops.exp(exponent * ops.log(odds))
    return power if shift == 0 else power * math.exp(shift)


def angular_margin(similarity: Tensor, margin: float) -> Tensor:
    """Computes `cos(arccos(s) + margin)`, or `s - margin * sin(margin)` where the angle would exceed pi.

    The slope by the cosine, `cos(margin) + s * sin(margin) / sqrt(1 - s^2)`, grows without bound towards s = 1. It is
    kept finite there by the bound 1e-6 on `1 - s^2` (a slope of 1000 * sin(margin)); by the angle it stays finite.

    Args:
        similarity: cosines, any shape and float dtype.
        margin: radians in (0, pi / 2].

    Returns:
        Cosines of the same shape, float32 at least.

    Example:

    >>> angular_margin(np.array([0.0, 1.0]), math.pi / 6).numpy().round(3)
    array([-0.5  ,  0.866])

    Reference: Deng et al. 2019 (ArcFace), arXiv 1801.07698. The bound is ours.
    """
    s = at_least_float32(similarity)
    squared = (1.0 - s) * (1.0 + s)
    # Straight through: the bounded square gives the slope, the square itself the value.
    sine = ops.sqrt(squared - ops.stop_gradient(squared - ops.maximum(squared, POLE_SHIFT)))
    sine = sine - ops.stop_gradient(sine - ops.sqrt(ops.maximum(squared, 0.0)))
    turned = s * math.cos(margin) - sine * math.sin(margin)
    return ops.where(s >= -math.cos(margin), turned, s - margin * math.sin(margin))


def spread(value: Tensor, similarity: Tensor) -> Tensor:
    """A scalar variable in the dtype of the cosines, for scalings that are trained.

    Its gradient is added up column by column first: the compiler adds a matrix up to a single number in one thread.

    Example:

    >>> spread(np.float32(2.0), np.zeros((2, 3), "float32")).numpy()
    array([[2., 2., 2.],
           [2., 2., 2.]], dtype=float32)
    """

    @tf.custom_gradient
    def spreading(value: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(slope: tf.Tensor) -> tf.Tensor:
            columns = tf.reduce_sum(slope, list(range(slope.shape.rank - 1)))
            # In float64, since the compiler would join two sums of one dtype.
            return tf.cast(tf.reduce_sum(tf.cast(columns, "float64")), value.dtype)

        return tf.fill(tf.shape(similarity), value), gradient

    return spreading(ops.cast(value, similarity.dtype))


def _odds(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """`1 + s + e` and `1 - s + e`."""
    s = at_least_float32(similarity)
    # Straight through: the value is clamped to [-1, 1], the gradient is not.
    s = s - ops.stop_gradient(s - ops.clip(s, -1.0, 1.0))
    # In this order: 1 + e is rounded by 5 % of e in float32, while 1 - s is exact near the pole.
    return (1.0 + s) + POLE_SHIFT, (1.0 - s) + POLE_SHIFT
