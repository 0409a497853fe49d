"""The cosine from which an anchor's negatives are hard: selected in strips of rows, without sorting N x N."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_tfcl.ops.tiled.runs import Side

# Two copies of one row can differ in the last bits of their cosines, and the tiles compute each cosine anew: cosines
# closer than this count as tied.
TIE = {tf.float32: 3e-7, tf.float64: 1e-12}
STRIP = 128  # rows at a time: a strip is no larger than embeddings of this many features
EXCLUDED = -2.0  # below every cosine
LARGEST = 1.01  # beyond every cosine, however it is rounded
HALVINGS = {tf.float32: 25, tf.float64: 54}  # of 2 * LARGEST: down to the spacing of numbers below 1


def hard_thresholds(units: Any, candidates: Any, rows: Side, columns: Side, kept: Any) -> Any:
    """The k-th largest cosine of each anchor and its negatives, less the tolerance of a tie.

    Args:
        units: unit rows of the anchors `(A, D)`, sorted as `rows` says.
        candidates: unit rows `(C, D)`.
        rows, columns: their sides, not in blocks.
        kept: k of each anchor, int32 `(A,)`; where it is 0 the result does not matter.

    Returns:
        `(A,)`, without gradient.
    """
    units, candidates = tf.stop_gradient(units), tf.stop_gradient(candidates)
    count = tf.shape(units)[0]
    height = tf.minimum(STRIP, count)

    def strip(start: Any, thresholds: Any) -> tuple[Any, Any]:
        index = tf.minimum(start, count - height) + tf.range(height)  # the last strip overlaps the one before it
        cosines = tf.matmul(tf.gather(units, index), candidates, transpose_b=True)  # (strip, C)
        mine = Side(*(None if x is None else tf.gather(x, index)[:, None] for x in rows))
        cosines = tf.where(_negatives(mine, columns), cosines, EXCLUDED)
        found = kth_largest(cosines, tf.maximum(tf.gather(kept, index), 1))
        return start + height, tf.tensor_scatter_nd_update(thresholds, index[:, None], found)

    state = (tf.constant(0), tf.zeros_like(units[:, 0]))
    thresholds = tf.while_loop(lambda start, _: start < count, strip, state, parallel_iterations=1)[1]
    return tf.stop_gradient(thresholds - TIE[units.dtype])


def kth_largest(cosines: Any, k: Any) -> Any:
    """The k-th largest of each row, by bisection on how many reach a value, which takes less time than a sort.

    Float32 cosines closer than 6e-8, the spacing of float32 below 1, count as one. Interpolating between the
    counts gains nothing: the slowest of the rows decides, and ties never end.

    Args:
        cosines: `(R, C)`, float32 or float64, from -1 to 1 but for rounding; smaller ones are passed over.
        k: int32 `(R,)`, from 1 to the number of cosines that are not passed over.

    Returns:
        `(R,)` of the dtype of `cosines`.
    """
    dtype = cosines.dtype
    k = tf.cast(k, dtype)  # counts as floats: exact up to 2^24, and faster than integers

    def halve(i: Any, low: Any, step: Any) -> tuple[Any, Any, Any]:
        middle = low + step
        reached = tf.reduce_sum(tf.where(cosines >= middle[:, None], tf.ones((), dtype), 0.0), axis=1) >= k
        return i + 1, tf.where(reached, middle, low), step / 2.0

    state = (tf.constant(0), tf.fill(tf.shape(k), tf.constant(-LARGEST, dtype)), tf.constant(LARGEST, dtype))
    halvings = HALVINGS[dtype]
    low = tf.while_loop(lambda i, *_: i < halvings, halve, state, parallel_iterations=1)[1]
    return tf.reduce_min(tf.where(cosines >= low[:, None], cosines, 2.0), axis=1)


def _negatives(mine: Side, columns: Side) -> Any:
    same = (mine.first <= columns.position) & (columns.position < mine.last)
    compared = columns.exists & (columns.position != mine.own)
    if mine.view is not None:
        compared &= mine.view != columns.view
    return compared & ~same
