"""The cosine from which an anchor's negatives are hard: an exact selection in strips of rows, without sorting N x N."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_tfcl.ops.tiled.runs import Side

# Two copies of one row can differ in the last bits of their cosines, and the tiles compute each cosine anew: cosines
# closer than this count as tied.
TIE = {tf.float32: 3e-7, tf.float64: 1e-12}
STRIP = 128  # rows at a time: a strip is no larger than embeddings of this many features
EXCLUDED = -2.0  # below every cosine


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


def kth_largest(values: Any, k: Any) -> Any:
    """Exact k-th largest of each row, bit by bit: the largest number that at least k values reach.

    Numbers are compared as integers of the same order; 32 counting passes (64 for float64) take less time than a sort.

    Args:
        values: `(R, C)`, float32 or float64, no NaN.
        k: int32 `(R,)`, from 1 to C.

    Returns:
        `(R,)` of the dtype of `values`.
    """
    dtype = tf.int32 if values.dtype == tf.float32 else tf.int64
    keys = _ordered_bits(tf.bitcast(values, dtype))

    def reached(candidate: Any) -> Any:
        return tf.reduce_sum(tf.cast(keys >= candidate[:, None], tf.int32), axis=1) >= k

    # The sign first: the smallest key, or 0. Then one bit after the other.
    prefix = tf.where(reached(tf.zeros_like(k, dtype)), tf.zeros((), dtype), dtype.min)

    def refine(bit: Any, prefix: Any) -> tuple[Any, Any]:
        candidate = prefix + tf.bitwise.left_shift(tf.ones((), dtype), tf.cast(bit, dtype))
        return bit - 1, tf.where(reached(candidate), candidate, prefix)

    state = (tf.constant(dtype.size * 8 - 2), prefix)
    prefix = tf.while_loop(lambda bit, _: bit >= 0, refine, state, parallel_iterations=1)[1]
    return tf.bitcast(_ordered_bits(prefix), values.dtype)


def _ordered_bits(bits: Any) -> Any:
    """Maps the bits of floats to integers of the same order, and back."""
    negative = tf.bitwise.right_shift(bits, tf.cast(bits.dtype.size * 8 - 1, bits.dtype))  # 0 or -1
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(negative, bits.dtype.max))


def _negatives(mine: Side, columns: Side) -> Any:
    same = (mine.first <= columns.position) & (columns.position < mine.last)
    compared = columns.exists & (columns.position != mine.own)
    if mine.view is not None:
        compared &= mine.view != columns.view
    return compared & ~same
