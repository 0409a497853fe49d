"""The reduction of a whole comparison: embeddings to unit blocks, tiles to a number for each anchor."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.pairwise.hardest import Hardest
from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.pairwise.reducers import LogSumExp, Reducer
from keras_tfcl.ops.pairwise.tile import Allows, Blocks, Side
from keras_tfcl.ops.pairwise.tiles import sum_over_tiles
from keras_tfcl.ops.similarity import at_least_float32, l2_normalize


class Reduced(NamedTuple):
    """What a reduction gives of A anchors.

    Attributes:
        reducers: what was reduced.
        results: float64 `(A,)` of each reducer.
        known: float64 `(A, V - 1)`, logits of the views of the same sample, by their distance: these positives are not
            in the results. None: all positives are.
        anchors, candidates: unit embeddings `(A, D)` and `(C, D)`.
    """

    reducers: list[Reducer]
    results: list[tf.Tensor]
    known: tf.Tensor | None
    anchors: tf.Tensor
    candidates: tf.Tensor

    def joined(self) -> list[tf.Tensor]:
        """The results, with the known positives in them."""
        if self.known is None:
            return self.results
        return [
            result if reducer.over == "negative" else reducer.join(result, self.known)
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
    limits = scaling.range()
    reducers = [r.within(*limits, z.dtype) if isinstance(r, LogSumExp) else r for r in reducers]
    views, view = comparison.views, comparison.view
    index = tf.range(tf.shape(z)[0])
    tiles = _Tiles(reducers, scaling, block, allows, hardest)
    if comparison.candidates is not None:
        others = comparison.candidates
        c = l2_normalize(at_least_float32(others.embeddings))
        nowhere = tf.fill(tf.shape(index), -1)
        own = nowhere if others.self_index is None else tf.cast(others.self_index, "int32")
        seen = None if view is None else tf.cast(others.views, "int32")
        rows = Side(comparison.labels, own, view)
        columns = Side(others.labels, tf.range(tf.shape(c)[0]), seen, others.mask)
        return Reduced(reducers, tiles.between(z, c, rows, columns, both=False)[0], None, z, c)
    if views == 1:
        return Reduced(reducers, tiles.among(z, Side(comparison.labels, index, view)), None, z, z)
    by_sample = tf.reshape(z, [-1, views, z.shape[1]])  # (B, V, D)
    turned = [tf.concat([by_sample[:, k:], by_sample[:, :k]], 1) for k in range(1, views)]
    known = tf.stack([_logits(scaling, by_sample, other) for other in turned], -1)
    known = tf.reshape(known, [-1, views - 1])
    if views == 2 and view is not None:
        side = Side(comparison.labels[::2], tf.range(tf.shape(by_sample)[0]))
        two = tiles.between(by_sample[:, 0], by_sample[:, 1], side, side, both=True)
        results = [tf.reshape(tf.stack(pair, 1), [-1]) for pair in zip(*two, strict=True)]
    else:
        results = tiles.among(z, Side(comparison.labels, index // views, view))
    return Reduced(reducers, results, known, z, z)


def logits_by_number(reduced: Reduced, scaling: Logits, number: tf.Tensor) -> tf.Tensor:
    """Logits `(A,)`, float64, of each anchor and the candidate of that number, by their distance."""
    return _logits(scaling, reduced.anchors, tf.gather(reduced.candidates, number))


def _logits(scaling: Logits, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Logits, float64, of unit vectors `(..., D)` pair by pair.

    The cosine is `1 - |a - b|^2 / 2`: without the cancellation that a dot product has where it is close to 1.
    """
    # A zero vector has cosine 0, not the 1/2 that its distance to a unit vector tells.
    nothing = [tf.cast(tf.reduce_all(x == 0, -1), "float64") for x in (a, b)]
    distance = tf.cast(tf.reduce_sum(tf.square(a - b), -1), "float64")
    return scaling(1.0 - (distance + nothing[0] + nothing[1]) / 2.0)


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

    def _sums(self, rows: Blocks, columns: Blocks | None = None, both: bool = False) -> Any:
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
            cut = lambda x: tf.reshape(x, [blocks, edge, *x.shape[1:]])  # noqa: E731
            return Blocks(cut(units), side.each(cut))
    missing = blocks * edge - count
    valid = tf.ones_like(side.skip, "bool") if side.valid is None else side.valid

    def pad(x: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(x, [[0, missing]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.reshape(padded, tf.concat([tf.stack([blocks, edge]), tf.shape(x)[1:]], 0))

    return Blocks(pad(units), side._replace(valid=valid).each(pad))
