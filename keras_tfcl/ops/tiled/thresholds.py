"""The similarity from which an anchor's negatives are hard: an exact selection in strips, without sorting N x N."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_tfcl.ops.tiled.runs import Side

TIE = {tf.float32: 3e-7, tf.float64: 1e-12}
STRIP = 128


def hard_thresholds(units: Any, candidates: Any, rows: Side, columns: Side, kept: Any) -> Any:
    """The k-th largest cosine of each anchor among its negatives, less the tolerance of a tie."""
    units, candidates = tf.stop_gradient(units), tf.stop_gradient(candidates)
    count = tf.shape(units)[0]

    def strip(start):
        index = tf.minimum(start + tf.range(tf.minimum(STRIP, count)), count - 1)
        s = tf.matmul(tf.gather(units, index), candidates, transpose_b=True)
        g = lambda x: None if x is None else tf.gather(x, index)[:, None]
        compared = (columns.position != g(rows.own))
        if rows.view is not None:
            compared &= g(rows.view) != columns.view
        same = (g(rows.first) <= columns.position) & (columns.position < g(rows.last))
        s = tf.where(compared & ~same, s, -2.0)
        k = tf.gather(kept, index)
        top = tf.sort(s, axis=1, direction="DESCENDING")
        v = tf.gather(top, tf.maximum(k - 1, 0), batch_dims=1)
        return index, v

    def body(start, out):
        index, v = strip(start)
        return start + STRIP, tf.tensor_scatter_nd_update(out, index[:, None], v)

    out = tf.while_loop(lambda s, _: s < count, body, (0, tf.zeros([count], units.dtype)), parallel_iterations=1)[1]
    return out - TIE[units.dtype]
