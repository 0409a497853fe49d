"""The scalings as the tiles need them: weights `exp(logit)` and their slopes, from products of rows.

Logits are taken relative to a constant that cancels in every loss: for a temperature the logit at cosine 1.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_tfcl.ops.scaling import POLE_SHIFT


class TemperatureForm:
    """`logit = s / t`. Rows are scaled by `t^-1/2`, so that a tile of their products holds the logits themselves.

    That also carries the gradient of a learnable temperature: it arrives through the rows.

    Args:
        inverse: `1 / t`, a number or a scalar tensor.
        largest: upper bound of `1 / t`, a number. Defaults to `inverse`.
    """

    def __init__(self, inverse: Any, largest: float | None = None) -> None:
        self.inverse = inverse
        self.largest = float(inverse if largest is None else largest)

    def rows(self, units: Any) -> Any:
        """Unit rows, scaled so that their products are `cosine / t`."""
        return units * tf.sqrt(tf.cast(self.inverse, units.dtype))

    def from_distance(self, half_squared: Any) -> Any:
        """Relative logits of half squared distances `d = 1 - s`: `-d / t`, exact where s is close to 1."""
        inverse = tf.cast(self.inverse, half_squared.dtype)
        return (inverse - tf.stop_gradient(inverse)) - half_squared * inverse

    def logit(self, product: Any) -> Any:
        """Relative logits `(s - 1) / t` of a tile."""
        return product - self._top(product.dtype)

    def logit_slope(self, product: Any) -> Any:
        return tf.ones_like(product)

    def weight(self, product: Any, power: float) -> Any:
        """`exp(power * logit + shift)` of a tile."""
        return tf.exp(power * product + (self.shift(power, product.dtype) - power * self._top(product.dtype)))

    def weight_slope(self, product: Any, power: float) -> Any:
        return power * self.weight(product, power)

    def shift(self, power: float, dtype: Any) -> Any:
        """Centres the exponents in float32's range, -87 to 88: they lie in [-2 * power / t, 0] before.

        Beyond 56 it would be too much: the gradient divides by sums of many weights, and by their number once more.
        """
        return tf.minimum(power * self._top(dtype), 56.0)

    def span(self, power: float) -> float:
        """Half the range of `power * logit`, from which `sums.choose_sums` chooses."""
        return power * self.largest

    def lowest(self, dtype: Any) -> Any:
        """Relative logit at cosine -1."""
        return -2.0 * self._top(dtype)

    def cosine_unit(self, dtype: Any) -> Any:
        """What a cosine of 1 is in a tile."""
        return self._top(dtype)

    def _top(self, dtype: Any) -> Any:
        return tf.stop_gradient(tf.cast(self.inverse, dtype))


class ArctanhForm:
    """`logit = c * arctanh(s)`, so that `exp(logit) = ((1 + s + e) / (1 - s + e))^(c/2)`: no exp, log or atanh for
    c = 1, 2, 4. The poles are those of `keras_tfcl.ops.arctanh_logits`.

    Args:
        scale: c, a positive number.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def rows(self, units: Any) -> Any:
        return units

    def from_distance(self, half_squared: Any) -> Any:
        """Logits of half squared distances `d = 1 - s`: without the cancellation in 1 - s."""
        d = half_squared - tf.stop_gradient(tf.nn.relu(half_squared - 2.0))
        return (self.scale / 2.0) * (tf.math.log((2.0 - d) + POLE_SHIFT) - tf.math.log(d + POLE_SHIFT))

    def logit(self, product: Any) -> Any:
        numerator, denominator = _odds(product)
        return (self.scale / 2.0) * tf.math.log(numerator / denominator)

    def logit_slope(self, product: Any) -> Any:
        numerator, denominator = _odds(product)
        return (self.scale / 2.0) * (1.0 / numerator + 1.0 / denominator)

    def weight(self, product: Any, power: float) -> Any:
        numerator, denominator = _odds(product)
        return _power(numerator / denominator, power * self.scale / 2.0)

    def weight_slope(self, product: Any, power: float) -> Any:
        # d/ds of (n / d)^q with n' = 1, d' = -1 and n + d = 2 + 2e: q (n / d)^(q - 1) (2 + 2e) / d^2
        numerator, denominator = _odds(product)
        q = power * self.scale / 2.0
        inverse = 1.0 / denominator
        return _power(numerator * inverse, q - 1.0) * ((2.0 + 2.0 * POLE_SHIFT) * q * inverse * inverse)

    def shift(self, power: float, dtype: Any) -> Any:
        return tf.zeros((), dtype)

    def span(self, power: float) -> float:
        return power * self.scale / 2.0 * 14.51  # log(2 / POLE_SHIFT + 1)

    def lowest(self, dtype: Any) -> Any:
        return self.logit(tf.constant(-1.0, dtype))

    def cosine_unit(self, dtype: Any) -> Any:
        return tf.ones((), dtype)


def _odds(cosine: Any) -> tuple[Any, Any]:
    """`1 + s + e` and `1 - s + e`; rounding pushes cosines of copies past 1."""
    s = tf.clip_by_value(cosine, -1.0, 1.0)
    # In this order: 1 + e is rounded by 5 % of e in float32, while 1 - s is exact near the pole.
    return (1.0 + s) + POLE_SHIFT, (1.0 - s) + POLE_SHIFT


def _power(x: Any, exponent: float) -> Any:
    """`x^exponent` for x > 0, without exp and log for the exponents in use."""
    if exponent == 0:
        return tf.ones_like(x)
    if exponent == 0.5:
        return tf.sqrt(x)
    if exponent == -0.5:
        return tf.math.rsqrt(x)
    if exponent in (1, 2, 3, 4):
        return x if exponent == 1 else x * _power(x, exponent - 1)
    return tf.exp(exponent * tf.math.log(x))
