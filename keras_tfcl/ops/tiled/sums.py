"""Two ways to a row's `log(sum over j of exp(p * logit_ij))` from tiles, each with its gradient.

`FixedShift` adds weights: one exponential serves a tile's rows and its columns, but all weights must fit in float32.
`Online` keeps logarithms, merged tile by tile: any temperature, two exponentials a pair.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

NOTHING = -1e30  # the log of an empty sum: finite, so that no arithmetic on it gives NaN


class FixedShift:
    """Sums of weights `exp(p * logit + shift)`, the shift constant over all rows."""

    empty = 0.0

    def __init__(self, form: Any) -> None:
        self.form = form

    def values(self, product: Any, power: float) -> Any:
        return self.form.weight(product, power)

    def reduce(self, values: Any, mask: Any, axis: int) -> Any:
        return tf.reduce_sum(values if mask is None else tf.where(mask, values, 0.0), axis)

    def merge(self, old: Any, new: Any) -> Any:
        return old + new

    def logs(self, sums: Any, power: float) -> Any:
        some = sums > 0
        shifted = tf.math.log(tf.where(some, sums, 1.0)) - self.form.shift(power, sums.dtype)
        return tf.where(some, shifted, tf.cast(NOTHING, sums.dtype))

    def slopes(self, product: Any, power: float) -> Any:
        return self.form.weight_slope(product, power)

    def share(self, slopes: Any, logs: Any, cotangent: Any, power: float) -> Any:
        """Gradient of `sum_i cotangent_i * logs_i` in the tile's products."""
        factor = cotangent * tf.exp(-logs - self.form.shift(power, logs.dtype))
        return slopes * tf.where(logs > NOTHING / 2, factor, 0.0)


class Online:
    """Running logarithms of sums."""

    empty = NOTHING

    def __init__(self, form: Any) -> None:
        self.form = form

    def values(self, product: Any, power: float) -> Any:
        return power * self.form.logit(product)

    def reduce(self, values: Any, mask: Any, axis: int) -> Any:
        return tf.reduce_logsumexp(values if mask is None else tf.where(mask, values, NOTHING), axis)

    def merge(self, old: Any, new: Any) -> Any:
        top = tf.maximum(old, new)
        return top + tf.math.log1p(tf.exp(tf.minimum(old, new) - top))

    def logs(self, sums: Any, power: float) -> Any:
        return tf.maximum(sums, NOTHING)

    def slopes(self, product: Any, power: float) -> Any:
        return power * self.form.logit(product), power * self.form.logit_slope(product)

    def share(self, slopes: Any, logs: Any, cotangent: Any, power: float) -> Any:
        logits, slope = slopes
        return cotangent * slope * tf.exp(tf.minimum(logits - logs, 0.0))


def choose_sums(form: Any, largest_power: float, dtype: Any) -> FixedShift | Online:
    """`FixedShift` where float32 holds all weights, their slopes (the slope of arctanh adds e^16 at its pole) and what
    the gradient divides by: temperatures down to 1/64, arctanh up to scale 8.8.
    """
    limit = 64.0 if dtype == tf.float32 else 300.0
    return FixedShift(form) if form.span(largest_power) <= limit else Online(form)
