"""What is added up over the pairs of an anchor: each reducer with its values in a tile and its slope."""

from __future__ import annotations

import functools
import math

import tensorflow as tf

from keras_tfcl.ops.pairwise.tile import Tile

NOTHING = -1e30  # the log of an empty sum: finite, so that no arithmetic on it gives NaN


class Reducer:
    """Sums: an empty one is 0, two are added.

    A reducer gives the `values` of the pairs in a tile, and their `slope` by the logits (None: they have none);
    `finish` makes the result of what the loops hold, and `join` adds positives outside of the tiles to a result, from
    their logits.

    Args:
        over: `"positive"`, `"negative"` or `"all"`: which pairs.
    """

    empty = 0.0

    def __init__(self, over: str) -> None:
        self.over = over

    def values(self, tile: Tile, axis: int) -> tf.Tensor:
        raise NotImplementedError

    def slope(self, tile: Tile) -> tf.Tensor | None:
        return None

    def reduce(self, tiles: list[Tile], axis: int) -> tf.Tensor:
        """Sums along an axis: of a tile, or of equal parts of one."""
        parts = [tf.where(tile.mask(self.over, axis), self.values(tile, axis), 0.0) for tile in tiles]
        return tf.reduce_sum(tf.add_n(parts), axis)

    def merge(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        return old + new

    def gradient(self, tile: Tile, sides: list[tuple[int, tf.Tensor, tf.Tensor]]) -> tf.Tensor | float:
        """The gradient by the tile's logits.

        Args:
            tile: the tile.
            sides: for sums along an axis: the axis, what the loops hold, and the gradient by that.
        """
        slope = self.slope(tile)
        if slope is None:
            return 0.0
        masks = [tile.mask(self.over, axis) for axis, _, _ in sides]
        if all(mask is masks[0] for mask in masks):
            return slope * tf.where(masks[0], sum(cotangent for _, _, cotangent in sides), 0.0)
        given = zip(masks, sides, strict=True)
        return slope * tf.add_n([tf.where(mask, cotangent, 0.0) for mask, (_, _, cotangent) in given])

    def finish(self, held: tf.Tensor) -> tf.Tensor:
        return tf.cast(held, "float64")

    def join(self, result: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError


class Count(Reducer):
    """The number of pairs."""

    def values(self, tile: Tile, axis: int) -> tf.Tensor:
        return tf.ones((), tile.cosines.dtype)

    def join(self, result: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return result + logits.shape[-1]


class Numbers(Count):
    """The sum of the candidates' numbers, exact up to 2^24: the number of the only one, where there is only one."""

    def values(self, tile: Tile, axis: int) -> tf.Tensor:
        numbers = tile.columns.skip[None] if axis == 1 else tile.rows.skip[:, None]
        return tf.cast(numbers, tile.cosines.dtype)


class Sum(Reducer):
    """The sum of logits."""

    def values(self, tile: Tile, axis: int) -> tf.Tensor:
        return tile.logits

    def slope(self, tile: Tile) -> tf.Tensor:
        return tf.ones((), tile.cosines.dtype)

    def join(self, result: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return result + tf.reduce_sum(logits, -1)


class Softplus(Reducer):
    """The sum of `softplus(-logit)` of the positives and `softplus(logit)` of the negatives."""

    def __init__(self) -> None:
        super().__init__("all")

    def values(self, tile: Tile, axis: int) -> tf.Tensor:
        return tf.nn.relu(self._wrong(tile)) + log1p_unit(tf.exp(-tf.abs(tile.logits)))

    def slope(self, tile: Tile) -> tf.Tensor:
        share = tf.sigmoid(self._wrong(tile))
        return tf.where(tile.positive, -share, share)

    def join(self, result: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        return result + tf.reduce_sum(tf.nn.softplus(-logits), -1)

    def _wrong(self, tile: Tile) -> tf.Tensor:
        """The log-odds of taking a pair for the other kind."""
        return tf.where(tile.positive, -tile.logits, tile.logits)


class LogSumExp(Reducer):
    """`log(sum of exp(power * logit))`, `NOTHING` of no pairs; its slope is the slope of `exp(slope * logit)`.

    All terms are shifted by one constant, so that one exponential serves a tile's rows and its columns.

    Args:
        over: which pairs.
        power: of the exponential.
        slope: takes the place of the power in the gradient; 0 for weights that are constants. Defaults to the power.
        shift: added to each exponent and taken from the result.
    """

    def __init__(self, over: str, power: float = 1.0, slope: float | None = None, shift: float = 0.0) -> None:
        super().__init__(over)
        self.power, self.shift = power, shift
        self.power_of_slope = power if slope is None else slope

    def values(self, tile: Tile, axis: int) -> tf.Tensor:
        return tile.scaling.exp(tile.cosines, self.power, self.shift)

    def slope(self, tile: Tile) -> tf.Tensor | None:
        return None if self.power_of_slope == 0 else self.power_of_slope * self.values(tile, 0)

    def finish(self, held: tf.Tensor) -> tf.Tensor:
        held = tf.cast(held, "float64")
        some = held > 0
        return tf.where(some, tf.math.log(tf.where(some, held, 1.0)) - self.shift, NOTHING)

    def join(self, result: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        exponents = self.power_of_slope * logits + (self.power - self.power_of_slope) * tf.stop_gradient(logits)
        return tf.reduce_logsumexp(tf.concat([result[..., None], exponents], -1), -1)

    def within(self, lowest: float, highest: float, dtype: tf.DType) -> LogSumExp:
        """The reducer for logits from `lowest` to `highest`: itself, centred, or `OnlineLogSumExp` if they are too far
        apart for one constant.
        """
        half = self.power * (highest - lowest) / 2
        # exp(56), times the number of pairs, times that again in the gradient: within float32's 3e38.
        if math.isfinite(half) and half <= (56 if dtype == tf.float32 else 300):
            return LogSumExp(self.over, self.power, self.power_of_slope, -self.power * (highest + lowest) / 2)
        return OnlineLogSumExp(self.over, self.power, self.power_of_slope)


class OnlineLogSumExp(LogSumExp):
    """The same of any logits: running logarithms, two exponentials a pair."""

    empty = NOTHING

    def reduce(self, tiles: list[Tile], axis: int) -> tf.Tensor:
        def of(tile: Tile) -> tf.Tensor:
            mask = tile.mask(self.over, axis)
            values = tf.where(mask, self.power * tile.logits, NOTHING)
            top = tf.reduce_max(values, axis, keepdims=True)
            total = tf.reduce_sum(tf.where(mask, tf.exp(values - top), 0.0), axis)
            return tf.where(total > 0, tf.squeeze(top, axis) + tf.math.log(tf.where(total > 0, total, 1.0)), NOTHING)

        return functools.reduce(self.merge, map(of, tiles))

    def merge(self, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        top = tf.maximum(old, new)
        return top + tf.math.log1p(tf.exp(tf.minimum(old, new) - top))

    def gradient(self, tile: Tile, sides: list[tuple[int, tf.Tensor, tf.Tensor]]) -> tf.Tensor | float:
        if self.power_of_slope == 0:
            return 0.0
        parts = []
        for axis, held, cotangent in sides:
            share = tf.exp(tf.minimum(self.power * tile.logits - held, 0.0))
            parts.append(tf.where(tile.mask(self.over, axis), self.power_of_slope * cotangent * share, 0.0))
        return tf.add_n(parts)

    def finish(self, held: tf.Tensor) -> tf.Tensor:
        return tf.maximum(tf.cast(held, "float64"), NOTHING)


def log1p_unit(x: tf.Tensor) -> tf.Tensor:
    """`log(1 + x)` for x in [0, 1], as `2 artanh(x / (2 + x))`: a series of relative error 1e-7, cheaper than log1p."""
    if x.dtype != tf.float32:
        return tf.math.log1p(x)
    t = x / (2.0 + x)
    square = t * t
    series = 1 / 15
    for divisor in (13, 11, 9, 7, 5, 3, 1):
        series = series * square + 1 / divisor
    return 2.0 * t * series
