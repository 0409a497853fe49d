"""The reduction of a whole comparison: embeddings to unit blocks, tiles to a number for each anchor."""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.pairwise.hardest import Hardest
from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.pairwise.products import product_of
from keras_tfcl.ops.pairwise.reducers import LogSumExp, Reducer
from keras_tfcl.ops.pairwise.tile import Allows, Blocks
from keras_tfcl.ops.pairwise.tiles import Tiles, sum_over_tiles
from keras_tfcl.ops.sides import Side, with_small_labels
from keras_tfcl.ops.similarity import at_least_float32, l2_normalize


class Reduced(NamedTuple):
    """What a reduction gives of A anchors.

    Attributes:
        reducers: what was reduced.
        results: float64 `(A,)` of each reducer.
        known: float64 `(A, V - 1)`, logits of the views of the same sample, by their distance: these positives are not
            in the results. None: all positives are.
        anchors, candidates: unit embeddings `(A, D)` and `(C, D)`.
        rows, columns: their sides.
    """

    reducers: list[Reducer]
    results: list[tf.Tensor]
    known: tf.Tensor | None
    anchors: tf.Tensor
    candidates: tf.Tensor
    rows: Side
    columns: Side

    def joined(self) -> list[tf.Tensor]:
        """The results, with the known positives in them."""
        if self.known is None:
            return self.results
        valid = True if self.rows.valid is None else self.rows.valid
        return [
            result if reducer.over == "negative" else tf.where(valid, reducer.join(result, self.known), result)
            for reducer, result in zip(self.reducers, self.results, strict=True)
        ]


def reduce_pairs(
    comparison: Comparison,
    reducers: list[Reducer],
    scaling: Logits,
    *,
    block: int,
    precision: str | None = None,
    allows: Allows = None,
    hardest: Hardest = None,
) -> Reduced:
    """Reduces the pairs of every anchor in tiles.

    Args:
        comparison: who is compared with whom.
        reducers: what to sum up.
        scaling: from cosines to logits.
        block: edge of the tiles.
        precision: of the matrix products, see `product_of`.
        allows: which negatives may count, by their cosines. None: all.
        hardest: how many of so many negatives, the hardest, count. None: all.
    """
    z = l2_normalize(at_least_float32(comparison.anchors))
    rows, columns = comparison.sides()
    if hardest is not None:
        rows, columns = with_small_labels(rows, columns)
    limits = scaling.range() if columns.log_probability is None else (-math.inf, math.inf)
    reducers = [r.within(*limits, z.dtype) if isinstance(r, LogSumExp) else r for r in reducers]
    views = comparison.views
    product = product_of(precision, comparison.anchors.dtype)

    def sums(a: tf.Tensor, rows: Side, c: tf.Tensor, columns: Side, both: bool = False) -> list[list[tf.Tensor]]:
        blocks = _in_blocks(a, rows, block)
        others = blocks if c is a else _in_blocks(c, columns, block)
        held = sum_over_tiles(Tiles(reducers, scaling, allows, product, blocks, others, c is a, both), hardest)
        return [
            [r.finish(tf.reshape(x, [-1])[: tf.shape(units)[0]]) for r, x in zip(reducers, of_side, strict=True)]
            for units, of_side in zip((a, c), held, strict=False)
        ]

    if comparison.candidates is not None:
        c = l2_normalize(at_least_float32(comparison.candidates.embeddings))
        results = sums(z, _in_dtype(rows, z), c, _in_dtype(columns, z))[0]
        return Reduced(reducers, results, None, z, c, rows, columns)
    if views == 1:
        return Reduced(reducers, sums(z, rows, z, rows)[0], None, z, z, rows, columns)
    by_sample = tf.reshape(z, [-1, views, z.shape[1]])  # (B, V, D)
    nothing = _nothing(by_sample)
    cosines = [_cosines(by_sample, _turned(by_sample, k), nothing + _turned(nothing, k)) for k in range(1, views)]
    known = tf.reshape(tf.stack([scaling(scaling.with_margin(x)) for x in cosines], -1), [-1, views - 1])
    if views == 2 and rows.views is not None:
        side = rows.each(lambda x: x[::2])._replace(skip=tf.range(tf.shape(by_sample)[0]), views=None)
        two = sums(by_sample[:, 0], side, by_sample[:, 1], side, both=True)
        results = [tf.reshape(tf.stack(pair, 1), [-1]) for pair in zip(*two, strict=True)]
    else:
        apart = rows._replace(skip=rows.skip // views)
        results = sums(z, apart, z, apart)[0]
    return Reduced(reducers, results, known, z, z, rows, columns)


def logits_by_number(reduced: Reduced, scaling: Logits, number: tf.Tensor) -> tf.Tensor:
    """Logits `(A,)`, float64, of each anchor and its positive, the candidate of that number, by their distance."""
    other = tf.gather(reduced.candidates, number)
    cosines = _cosines(reduced.anchors, other, _nothing(reduced.anchors) + _nothing(other))
    logits = scaling(scaling.with_margin(cosines))
    log_probability = reduced.columns.log_probability
    return logits if log_probability is None else logits - tf.cast(tf.gather(log_probability, number), "float64")


def _turned(x: tf.Tensor, k: int) -> tf.Tensor:
    """Beside each view of a sample, the k-th one after it. (`tf.roll` makes XLA hold the views twice.)"""
    return tf.concat([x[:, k:], x[:, :k]], 1)


def _cosines(a: tf.Tensor, b: tf.Tensor, nothing: tf.Tensor) -> tf.Tensor:
    """Cosines, float64, of unit vectors `(..., D)` pair by pair, of which so many (0 to 2) are zero vectors.

    They are `1 - |a - b|^2 / 2`: without the cancellation that a dot product has where it is close to 1. A zero vector
    has cosine 0, not the 1/2 that its distance to a unit vector tells.
    """
    return 1.0 - (tf.cast(tf.reduce_sum(tf.square(a - b), -1), "float64") + nothing) / 2.0


def _nothing(units: tf.Tensor) -> tf.Tensor:
    """Float64: 1 for zero vectors, 0 for unit vectors."""
    return tf.cast(tf.reduce_sum(tf.square(tf.stop_gradient(units)), -1) < 0.5, "float64")


def _in_dtype(side: Side, units: tf.Tensor) -> Side:
    if side.log_probability is None:
        return side
    return side._replace(log_probability=tf.cast(side.log_probability, units.dtype))


def _in_blocks(units: tf.Tensor, side: Side, block: int) -> Blocks:
    """`(N, ...)` to `(T, B, ...)`, B at most `block` and such that few embeddings are missing in the last block."""
    count = units.shape[0]
    if count is None:
        count = tf.shape(units)[0]
        blocks = -(-count // block)
        edge = -(-count // tf.maximum(blocks, 1))
    else:
        blocks = -(-count // block)
        edge = -(-count // blocks)
        if blocks * edge == count:

            def cut(x: tf.Tensor) -> tf.Tensor:
                return tf.reshape(x, [blocks, edge, *x.shape[1:]])

            return Blocks(cut(units), side.each(cut))
    missing = blocks * edge - count
    valid = tf.ones_like(side.skip, "bool") if side.valid is None else side.valid

    def pad(x: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(x, [[0, missing]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.reshape(padded, tf.concat([tf.stack([blocks, edge]), tf.shape(x)[1:]], 0))

    return Blocks(pad(units), side._replace(valid=valid).each(pad))
