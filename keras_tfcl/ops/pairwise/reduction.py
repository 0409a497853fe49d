"""The reduction of a whole comparison: embeddings to unit blocks, tiles to a number for each anchor."""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.pairwise.hardest import Hardest
from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.pairwise.reducers import LogSumExp, Reducer
from keras_tfcl.ops.pairwise.tile import Allows, Blocks
from keras_tfcl.ops.pairwise.tiles import sum_over_tiles
from keras_tfcl.ops.sides import Side
from keras_tfcl.ops.similarity import at_least_float32, l2_normalize
from keras_tfcl.typing import Tensor


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
    allows: Allows = None,
    hardest: Hardest = None,
) -> Reduced:
    """Reduces the pairs of every anchor in tiles.

    Args:
        comparison: who is compared with whom.
        reducers: what to sum up.
        scaling: from cosines to logits.
        block: edge of the tiles.
        allows: which negatives may count, by their cosines. None: all.
        hardest: how many of so many negatives, the hardest, count. None: all.
    """
    z = l2_normalize(at_least_float32(comparison.anchors))
    rows, columns = comparison.sides()
    limits = scaling.range() if columns.log_probability is None else (-math.inf, math.inf)
    reducers = [r.within(*limits, z.dtype) if isinstance(r, LogSumExp) else r for r in reducers]
    views = comparison.views
    tiles = _Tiles(reducers, scaling, block, allows, hardest)
    if comparison.candidates is not None:
        c = l2_normalize(at_least_float32(comparison.candidates.embeddings))
        results = tiles.between(z, c, _in_dtype(rows, z), _in_dtype(columns, z), both=False)[0]
        return Reduced(reducers, results, None, z, c, rows, columns)
    if views == 1:
        return Reduced(reducers, tiles.among(z, rows), None, z, z, rows, columns)
    by_sample = tf.reshape(z, [-1, views, z.shape[1]])  # (B, V, D)
    turned = [tf.concat([by_sample[:, k:], by_sample[:, :k]], 1) for k in range(1, views)]
    known = tf.stack([_logits(scaling, by_sample, other) for other in turned], -1)
    known = tf.reshape(known, [-1, views - 1])
    if views == 2 and rows.views is not None:
        side = rows.each(lambda x: x[::2])._replace(skip=tf.range(tf.shape(by_sample)[0]), views=None)
        two = tiles.between(by_sample[:, 0], by_sample[:, 1], side, side, both=True)
        results = [tf.reshape(tf.stack(pair, 1), [-1]) for pair in zip(*two, strict=True)]
    else:
        results = tiles.among(z, rows._replace(skip=rows.skip // views))
    return Reduced(reducers, results, known, z, z, rows, columns)


def logits_by_number(reduced: Reduced, scaling: Logits, number: tf.Tensor) -> tf.Tensor:
    """Logits `(A,)`, float64, of each anchor and its positive, the candidate of that number, by their distance."""
    logits = _logits(scaling, reduced.anchors, tf.gather(reduced.candidates, number))
    log_probability = reduced.columns.log_probability
    return logits if log_probability is None else logits - tf.cast(tf.gather(log_probability, number), "float64")


def _logits(scaling: Logits, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Logits, float64, of positives, unit vectors `(..., D)` pair by pair.

    The cosine is `1 - |a - b|^2 / 2`: without the cancellation that a dot product has where it is close to 1.
    """
    # A zero vector has cosine 0, not the 1/2 that its distance to a unit vector tells.
    nothing = [tf.cast(tf.reduce_all(x == 0, -1), "float64") for x in (a, b)]
    distance = tf.cast(tf.reduce_sum(tf.square(a - b), -1), "float64")
    return scaling(scaling.with_margin(1.0 - (distance + nothing[0] + nothing[1]) / 2.0))


def _in_dtype(side: Side, units: tf.Tensor) -> Side:
    if side.log_probability is None:
        return side
    return side._replace(log_probability=tf.cast(side.log_probability, units.dtype))


class _Tiles(NamedTuple):
    reducers: list[Reducer]
    scaling: Logits
    block: int
    allows: Allows
    hardest: Hardest

    def among(self, z: tf.Tensor, side: Side) -> list[tf.Tensor]:
        return self._finish(self._sums(_in_blocks(z, side, self.block))[0], z)

    def between(self, a: tf.Tensor, c: tf.Tensor, rows: Side, columns: Side, both: bool) -> list[list[tf.Tensor]]:
        of_rows, of_columns = self._sums(_in_blocks(a, rows, self.block), _in_blocks(c, columns, self.block), both)
        return [self._finish(of_rows, a), self._finish(of_columns, c)] if both else [self._finish(of_rows, a)]

    def _sums(self, rows: Blocks, columns: Blocks | None = None, both: bool = False) -> Tensor:
        return sum_over_tiles(self.reducers, self.scaling, self.allows, rows, columns, both, self.hardest)

    def _finish(self, held: list[tf.Tensor], units: tf.Tensor) -> list[tf.Tensor]:
        count = tf.shape(units)[0]
        return [r.finish(tf.reshape(x, [-1])[:count]) for r, x in zip(self.reducers, held, strict=True)]


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
