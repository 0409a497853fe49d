"""Which tiles there are: those of negatives alone first, then those that need masks."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from keras_tfcl.ops.tiled.runs import Side


class Plan(NamedTuple):
    """The tiles in order: block numbers `(n,)` of both sides; the first `plain` of them need no masks."""

    rows: Any
    columns: Any
    plain: Any
    count: Any  # n; with a single block there is no pair, and the vectors hold one number that is not used


def pairs_plan(side: Side) -> Plan:
    """Every unordered pair of different blocks once."""
    blocks = _count(side)
    count = blocks * (blocks - 1) // 2
    q = tf.range(tf.maximum(count, 1))  # never empty: XLA refuses to index into nothing, even in a loop of no steps
    rows = q % blocks
    return _plain_first(rows, (rows + q // blocks + 1) % blocks, count, side, side)


def cross_plan(rows: Side, columns: Side) -> Plan:
    """Every block of rows with every block of columns."""
    width = _count(columns)
    count = _count(rows) * width
    q = tf.range(count)
    return _plain_first(q // width, q % width, count, rows, columns)


def _plain_first(i: Any, j: Any, count: Any, rows: Side, columns: Side) -> Plan:
    if rows.view is not None:
        return Plan(i, j, 0, count)  # neighbours differ in their views: no tile is free of excluded pairs
    low, high = tf.gather(columns.position[:, 0], j), tf.gather(columns.position[:, 0], j) + _edge(columns) - 1
    same = (tf.gather(tf.reduce_min(rows.first, 1), i) <= high) & (tf.gather(tf.reduce_max(rows.last, 1), i) > low)
    least_own = tf.reduce_min(tf.where(rows.own >= 0, rows.own, tf.int32.max), 1)
    own = (tf.gather(least_own, i) <= high) & (tf.gather(tf.reduce_max(rows.own, 1), i) >= low)
    full_rows, full_columns = tf.reduce_all(rows.exists, 1), tf.reduce_all(columns.exists, 1)
    plain = ~same & ~own & tf.gather(full_rows, i) & tf.gather(full_columns, j)
    plain &= tf.range(tf.shape(i)[0]) < count
    number = tf.math.count_nonzero(plain, dtype="int32")
    flags = tf.cast(plain, "int32")
    place = tf.where(plain, tf.cumsum(flags) - 1, number + tf.cumsum(1 - flags) - 1)[:, None]
    return Plan(tf.scatter_nd(place, i, tf.shape(i)), tf.scatter_nd(place, j, tf.shape(j)), number, count)


def _count(side: Side) -> Any:
    return tf.shape(side.position)[0] if side.position.shape[0] is None else side.position.shape[0]


def _edge(side: Side) -> Any:
    return tf.shape(side.position)[1]
