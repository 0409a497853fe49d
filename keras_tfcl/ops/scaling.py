"""From cosine to logit: the only step in which temperature and temperature-free losses differ."""

from __future__ import annotations

import math

from keras import ops

from keras_tfcl.ops.similarity import at_least_float32
from keras_tfcl.typing import Tensor

# The smallest shift that exceeds the rounding of a float32 dot product of unit vectors (up to 8e-7): below it, noise
# would decide how hard near-duplicates repel.
POLE_SHIFT = 1e-6


def temperature_logits(similarity: Tensor, temperature: Tensor) -> Tensor:
    """Temperature scaling `logit = s / temperature` (SimCLR: Chen et al. 2020, arXiv 2002.05709).

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
    """Temperature-free scaling `logit = scale * arctanh(s)`, finite at both poles.

    Formula: `scale/2 * log((1 + s + e) / (1 - s + e))` with e = 1e-6, which is `scale * arctanh(s)` up to an error of
    `scale/2 * e * 2s / (1 - s^2)`: 1e-5 at s = 0.9 for scale 2. Cosines that rounding pushed past +-1 count as +-1.

    At s = +-1 the logit is `+-scale/2 * log(2/e + 1)` (+-14.5 for scale 2) with slope `scale/2 * (1/e + 1/(2 + e))`.
    The slope is not cut to zero there as a clip would do: identical views still get the finite limit of the positive's
    gradient, and near-duplicate negatives still repel.

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


def _odds(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """`1 + s + e` and `1 - s + e`."""
    s = at_least_float32(similarity)
    # Straight through: the value is clamped to [-1, 1], the gradient is not.
    s = s - ops.stop_gradient(s - ops.clip(s, -1.0, 1.0))
    # In this order: 1 + e is rounded by 5 % of e in float32, while 1 - s is exact near the pole.
    return (1.0 + s) + POLE_SHIFT, (1.0 - s) + POLE_SHIFT
