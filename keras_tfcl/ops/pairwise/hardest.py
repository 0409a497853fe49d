"""The cosine from which an anchor's negatives are hard: selected in strips of anchors, without sorting N x N."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_tfcl.ops.block_size import runs_on_gpu, strip_height
from keras_tfcl.ops.hard import TIE
from keras_tfcl.ops.pairwise.tile import Blocks, Tile
from keras_tfcl.ops.pairwise.tiles import Tiles
from keras_tfcl.ops.sides import Side, pairs_of
from keras_tfcl.typing import Tensor

Hardest = Callable[[tf.Tensor], tf.Tensor] | None

ABSENT = -2.0  # below every cosine
LARGEST = 1.01  # beyond every cosine, however it is rounded
PASSES = 64


def sum_over_strips(tiles: Tiles, hardest: Callable[[tf.Tensor], tf.Tensor]) -> tuple[list[tf.Tensor], Tiles]:
    """What the reducers hold of the hardest negatives, as `Tiles.forward` gives it, and the tiles with thresholds.

    `hardest` gives k, int32, of numbers of negatives, int32.
    """
    of_rows, threshold = _of_anchors(tiles, hardest, tiles.rows, tiles.columns)
    rows, columns, held = tiles.rows.with_threshold(threshold), tiles.columns, [of_rows]
    if tiles.symmetric:
        columns = rows
    elif tiles.both:
        of_columns, threshold = _of_anchors(tiles, hardest, tiles.columns, tiles.rows)
        columns, held = columns.with_threshold(threshold), [of_rows, of_columns]
    return held, tiles._replace(rows=rows, columns=columns)


def _of_anchors(
    tiles: Tiles, hardest: Callable[[tf.Tensor], tf.Tensor], anchors: Blocks, candidates: Blocks
) -> tuple[tf.Tensor, tf.Tensor]:
    """What the K reducers hold, `(T, K, B)`, and the threshold of each anchor `(T, B)`, from the same strips.

    The threshold is the k-th largest cosine of the anchor and its negatives, less the tolerance of a tie.
    """
    z, c = (tf.reshape(x.units, [-1, x.units.shape[-1]]) for x in (anchors, candidates))
    mine, others = (x.side.each(lambda part: tf.reshape(part, [-1, *part.shape[2:]])) for x in (anchors, candidates))
    count = tf.shape(z)[0]
    candidate_count = tf.shape(c)[0]
    height = tf.minimum(strip_height(tf.shape(anchors.units)[1], candidate_count, runs_on_gpu()), count)
    # Moments of each anchor's cosines, in closed form: where the search starts.
    mean = tf.linalg.matvec(z, tf.reduce_mean(c, 0))
    second = tf.matmul(c, c, transpose_a=True) / tf.cast(candidate_count, c.dtype)
    variance = tf.reduce_sum(tf.matmul(z, second) * z, 1) - mean * mean
    deviation = tf.sqrt(tf.maximum(variance, 1e-12))
    ways = _ways(c)

    def part(n: int) -> Side:
        return others.each(lambda x: tf.split(x, ways)[n])

    parts = [part(n) for n in range(ways)]

    def strip(start: Tensor, thresholds: tf.Tensor, *held: tf.Tensor) -> tuple[Tensor, ...]:
        index = tf.minimum(start, count - height) + tf.range(height)  # the last strip overlaps the one before it
        cosines = tiles.product(c, tf.gather(z, index), transpose_b=True)  # (C, strip): sums along axis 0 are fast
        now = mine.each(lambda x: tf.gather(x, index))
        compared, same = pairs_of(others, now)
        negative = compared & ~same
        if tiles.allows is not None:
            negative &= tiles.scaling.run(tiles.allows, cosines)
        number = _sum(lambda x: tf.cast(x, "int32"), negative)
        among = tf.where(negative, cosines, tf.cast(ABSENT, cosines.dtype))
        k = tf.maximum(hardest(number), 1)
        found = kth_largest(among, number, k, tf.gather(mean, index), tf.gather(deviation, index))
        now = now._replace(threshold=found - TIE[z.dtype.name])
        pairs = zip(tf.split(cosines, ways), parts, strict=True)
        column = [Tile(some, side, now, tiles.scaling, tiles.allows) for some, side in pairs]
        state = zip((thresholds, *held), [now.threshold, *(r.reduce(column, 0) for r in tiles.reducers)], strict=True)
        return (start + height, *(tf.tensor_scatter_nd_update(old, index[:, None], new) for old, new in state))

    state = (tf.constant(0), *[tf.zeros_like(z[:, 0])] * (1 + len(tiles.reducers)))
    results = tf.while_loop(lambda start, *_: start < count, strip, state, parallel_iterations=1)[1:]
    thresholds, *held = (tf.reshape(x, tf.shape(anchors.side.skip)) for x in results)
    return tf.stack(held, 1), thresholds


class Bracket(NamedTuple):
    """Where the k-th largest cosine of each column is: from `low` on, below `high`. All are `(R,)`."""

    low: Tensor
    high: Tensor
    reach_low: Tensor  # how many cosines reach `low`: k or more
    reach_high: Tensor  # how many reach `high`: fewer than k


def kth_largest(
    cosines: tf.Tensor, number: tf.Tensor, k: tf.Tensor, mean: tf.Tensor, deviation: tf.Tensor
) -> tf.Tensor:
    """The k-th largest of each column: its bracket is narrowed by counts of how many reach two trial values at a time.

    The trials start at the quantile of a normal distribution. A search ends where a count singles the value out, or
    where what is left in the bracket counts as tied.

    Args:
        cosines: `(C, R)`, float32 or float64, from -1 to 1 but for rounding; smaller ones are ignored.
        number: int32 `(R,)`, the number of cosines that are not ignored.
        k: int32 `(R,)`, from 1 to `number`.
        mean, deviation: `(R,)`, about those of each column.

    Returns:
        `(R,)`; where `number` is 0 it does not matter.
    """
    dtype = cosines.dtype
    k, number = tf.cast(k, dtype), tf.cast(number, dtype)  # exact up to 2^24
    end = tf.fill(tf.shape(k), tf.cast(LARGEST, dtype))
    start = Bracket(-end, end, number, tf.zeros_like(k))

    def searching(passes: Tensor, bracket: Bracket, *_: Tensor) -> tf.Tensor:
        return (passes < PASSES) & ~tf.reduce_all(_is_settled(bracket, k))

    def narrow(passes: Tensor, bracket: Bracket, *trials: Tensor) -> tuple[Tensor | Bracket, ...]:
        narrower = bracket
        for trial, reach in zip(trials, _reach(cosines, *trials), strict=True):
            narrower = _narrowed(narrower, trial, reach, k)
        return passes + 1, narrower, *_next_trials(narrower, bracket.high - bracket.low, k)

    state = (tf.constant(0), start, *_first_trials(number, k, mean, deviation))
    _, bracket, *_ = tf.while_loop(searching, narrow, state, parallel_iterations=1)
    return _found(cosines, bracket, k)


def _is_settled(bracket: Bracket, k: tf.Tensor) -> tf.Tensor:
    low, high, reach_low, reach_high = bracket
    tied = (high - low <= TIE[low.dtype.name] / 8) | (tf.math.nextafter(low, high) >= high)
    return (reach_low == k) | (reach_high == k - 1) | tied


def _narrowed(bracket: Bracket, trial: Tensor, reach: Tensor, k: tf.Tensor) -> Bracket:
    low, high, reach_low, reach_high = bracket
    up, down = (reach >= k) & (trial > low), (reach < k) & (trial < high)
    return Bracket(
        tf.where(up, trial, low),
        tf.where(down, trial, high),
        tf.where(up, reach, reach_low),
        tf.where(down, reach, reach_high),
    )


def _first_trials(number: tf.Tensor, k: tf.Tensor, mean: tf.Tensor, deviation: tf.Tensor) -> tuple[Tensor, Tensor]:
    """Two values around the quantile of a normal distribution, 2.5 standard errors to each side."""
    share = tf.clip_by_value(k / tf.maximum(number, 1.0), 1e-4, 1 - 1e-4)
    quantile = -tf.math.ndtri(share)
    density = tf.exp(-quantile * quantile / 2) / math.sqrt(2 * math.pi)
    spread = 2.5 * tf.sqrt(share * (1 - share) / tf.maximum(number, 1.0)) / density
    first, second = (tf.clip_by_value(mean + deviation * x, -1.0, 1.0) for x in (quantile - spread, quantile + spread))
    return first, second


def _next_trials(bracket: Bracket, width_before: tf.Tensor, k: tf.Tensor) -> tuple[Tensor, Tensor]:
    """Two values inside the bracket: interpolated on the counts, or thirds where the last trials hardly narrowed it."""
    low, high, reach_low, reach_high = bracket
    width = high - low
    inside, below = reach_low - reach_high, reach_low - k  # how many are in the bracket, how many of them too low
    middle = (below + 0.5) / (inside + 1.0)
    margin = (0.1 + 0.6 * tf.sqrt(below * tf.maximum(inside - below, 0.0) / inside)) / (inside + 1.0)
    slow, third = width > 0.25 * width_before, tf.constant(1 / 3, low.dtype)
    shares = tf.where(slow, third, middle - margin), tf.where(slow, 2.0 * third, middle + margin)
    least = tf.math.nextafter(low, high)
    first = tf.clip_by_value(low + tf.maximum(shares[0], 0.02) * width, least, high)
    second = tf.clip_by_value(low + tf.minimum(shares[1], 0.98) * width, least, high)
    return first, second


def _found(cosines: tf.Tensor, bracket: Bracket, k: tf.Tensor) -> tf.Tensor:
    """The largest cosine below `high` if only k - 1 reach `high`, or else the smallest from `low` on."""
    low, high, reach_low, reach_high = bracket
    from_above = (reach_high == k - 1) & (reach_low != k)
    sign = tf.where(from_above, tf.ones((), low.dtype), -1.0)
    bound = tf.where(from_above, high, tf.math.nextafter(-low, tf.cast(4.0, low.dtype)))

    def signed(x: tf.Tensor) -> tf.Tensor:
        y = x * sign
        return tf.where((y < bound) & (x >= -1.5), y, tf.cast(-4.0, low.dtype))

    return sign * _fold(signed, cosines, tf.maximum, tf.reduce_max)


def _reach(cosines: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """How many of each column reach two values, counted in one integer: its lower half and its upper."""
    few = cosines.shape[0] is not None and cosines.shape[0] < 2**15
    dtype, unit = (tf.int32, 2**15) if few else (tf.int64, 2**31)
    both = _sum(lambda x: tf.cast(x >= first, dtype) + unit * tf.cast(x >= second, dtype), cosines)
    return tf.cast(both % unit, cosines.dtype), tf.cast(both // unit, cosines.dtype)


def _sum(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    return _fold(function, x, tf.add, tf.reduce_sum)


def _fold(
    function: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    join: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    reduce: Callable[[tf.Tensor, int], tf.Tensor],
) -> tf.Tensor:
    """Reduces `function(x)` over the first axis.

    XLA writes the operand of a reduction to memory; elementwise operations on eight slices it fuses: twice as fast.
    """
    parts = [function(part) for part in tf.split(x, _ways(x))]
    while len(parts) > 1:
        parts = [join(*parts[n : n + 2]) for n in range(0, len(parts), 2)]
    return reduce(parts[0], 0)


def _ways(x: tf.Tensor) -> int:
    """In how many equal parts the first axis is cut: eight, or fewer if its length is no multiple or not known."""
    return math.gcd(x.shape[0] or 1, 8)
