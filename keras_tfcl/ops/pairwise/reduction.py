"""The reduction of a whole comparison: embeddings to unit blocks, tiles to a number for each anchor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.pairwise.first_order import Gradient, first_order
from keras_tfcl.ops.pairwise.hardest import Hardest, sum_over_strips
from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.pairwise.products import product_of
from keras_tfcl.ops.pairwise.reducers import Count, LogSumExp, Reducer, Softplus
from keras_tfcl.ops.pairwise.tile import Allows, Blocks
from keras_tfcl.ops.pairwise.tiles import Tiles
from keras_tfcl.ops.sides import Side
from keras_tfcl.ops.similarity import at_least_float32
from keras_tfcl.typing import Tensor


class Reduced(NamedTuple):
    """What a reduction gives of A anchors.

    Attributes:
        comparison: who was compared with whom.
        reducers: what was reduced.
        results: float64 `(A,)` of each reducer.
        anchors, candidates: unit embeddings `(A, D)` and `(C, D)`.
        known: float64 `(A, V - 1)`, logits of the views of the same sample, by their distance: these positives are not
            in the results. None: all positives are.
    """

    comparison: Comparison
    reducers: list[Reducer]
    results: list[tf.Tensor]
    anchors: tf.Tensor
    candidates: tf.Tensor
    known: tf.Tensor | None = None

    def joined(self) -> list[tf.Tensor]:
        """The results, with the known positives in them."""
        if self.known is None:
            return self.results
        valid = True if self.comparison.valid is None else self.comparison.valid
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
    z, c = comparison.units()
    rows, columns = comparison.sides()
    limits = scaling.range() if columns.log_probability is None else (-math.inf, math.inf)
    reducers = [r.within(*limits, z.dtype) if isinstance(r, LogSumExp) else r for r in reducers]
    product = product_of(precision, comparison.anchors.dtype)

    def sums(a: tf.Tensor, rows: Side, c: tf.Tensor, columns: Side, both: bool = False) -> list[list[tf.Tensor]]:
        blocks = _in_blocks(a, rows, block)
        others = blocks if c is a else _in_blocks(c, columns, block)
        held = sum_over_tiles(Tiles(reducers, scaling, allows, product, blocks, others, c is a, both), hardest)
        return [
            [r.finish(tf.reshape(x, [-1])[: tf.shape(units)[0]]) for r, x in zip(reducers, of_side, strict=True)]
            for units, of_side in zip((a, c), held, strict=False)
        ]

    views = comparison.views
    if comparison.candidates is not None or views == 1:
        return Reduced(comparison, reducers, sums(z, rows, c, columns)[0], z, c)
    by_sample = tf.reshape(z, [-1, views, z.shape[1]])  # (B, V, D)
    zeros = tf.reshape(_zero_vectors(comparison.anchors), [-1, views])
    cosines = [_cosines(by_sample, _turned(by_sample, k), zeros + _turned(zeros, k)) for k in range(1, views)]
    known = tf.reshape(tf.stack([scaling(scaling.with_margin(x)) for x in cosines], -1), [-1, views - 1])
    if views == 2 and rows.views is not None:
        side = rows.each(lambda x: x[::2])._replace(skip=tf.range(tf.shape(by_sample)[0]), views=None)
        two = sums(by_sample[:, 0], side, by_sample[:, 1], side, both=True)
        results = [tf.reshape(tf.stack(pair, 1), [-1]) for pair in zip(*two, strict=True)]
    else:
        apart = rows._replace(skip=rows.skip // views)
        results = sums(z, apart, z, apart)[0]
    return Reduced(comparison, reducers, results, z, z, known)


def sum_over_tiles(tiles: Tiles, hardest: Hardest) -> list[list[tf.Tensor]]:
    """What the reducers hold for each row and, if `both`, for each column: `(T, B)` for each reducer.

    It is differentiable in the embeddings and in the scaling's values.
    """
    sloped = [k for k, reducer in enumerate(tiles.reducers) if not isinstance(reducer, Count)]
    # A softplus, whose slope does not depend on the sums: the same loop can give both.
    at_once = hardest is None and len(sloped) == 1 and isinstance(tiles.reducers[sloped[0]], Softplus)

    @first_order
    def sums(a: tf.Tensor, c: tf.Tensor, *values: tf.Tensor) -> tuple[list[tf.Tensor], Gradient]:
        now = tiles.at(a, c, values)
        if hardest is not None:
            held, now = sum_over_strips(now, hardest)
        elif at_once:
            held = now.empty()
            slopes = now.backward(held, [tf.ones_like(x) for x in held])

            def value_and_gradient(i: Tensor, j: Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
                return now.forward(i, j, *state[: len(held)]) + slopes(i, j, *state[len(held) :])

            state = now.visit(value_and_gradient, held + now.zeros(), now.number)
            held, unit = state[: len(held)], state[len(held) :]
        else:
            held = now.visit(now.forward, now.empty(), now.number)

        def gradient(*cotangents: tf.Tensor) -> list[tf.Tensor]:
            given, number = now.zeros(), now.number
            if at_once:
                # `unit` is the gradient where every embedding has the weight 1. Other weights take a loop of their own.
                weight, equal = _equal_weight(now, [x[:, sloped[0]] for x in cotangents])
                given = [tf.where(equal, tf.cast(weight, x.dtype) * x, tf.zeros((), x.dtype)) for x in unit]
                number = tf.where(equal, 0, number)
            return now.gradients(*now.visit(now.backward(held, cotangents), given, number))

        return held, gradient

    held = sums(tiles.rows.units, tf.zeros(()) if tiles.symmetric else tiles.columns.units, *tiles.scaling.values)
    return [tf.unstack(x, axis=1) for x in held]


def _equal_weight(tiles: Tiles, weights: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The largest weight, and whether all valid embeddings have it (False of none, as on a replica without anchors)."""
    largest = tf.reduce_max(tf.stack([tf.reduce_max(x) for x in weights]))
    equal = [
        tf.reduce_all(x == largest if blocks.side.valid is None else (x == largest) | ~blocks.side.valid)
        for x, blocks in zip(weights, (tiles.rows, tiles.columns), strict=False)
    ]
    return largest, tf.reduce_all(tf.stack(equal)) & (largest > -math.inf)


def logits_by_number(reduced: Reduced, scaling: Logits, number: tf.Tensor) -> tf.Tensor:
    """Logits `(A,)`, float64, of each anchor and its positive, the candidate of that number, by their distance."""
    anchors, others = reduced.comparison.anchors, reduced.comparison.candidates
    zeros = _zero_vectors(anchors) + tf.gather(_zero_vectors(anchors if others is None else others.embeddings), number)
    cosines = _cosines(reduced.anchors, tf.gather(reduced.candidates, number), zeros)
    logits = scaling(scaling.with_margin(cosines))
    if others is None or others.log_probability is None:
        return logits
    return logits - tf.cast(tf.gather(others.log_probability, number), "float64")


def _turned(x: tf.Tensor, k: int) -> tf.Tensor:
    """Beside each view of a sample, the k-th one after it. (`tf.roll` makes XLA hold the views twice.)"""
    return tf.reverse(x, [1]) if x.shape[1] == 2 else tf.concat([x[:, k:], x[:, :k]], 1)


def _cosines(a: tf.Tensor, b: tf.Tensor, zeros: tf.Tensor) -> tf.Tensor:
    """Cosines, float64, of unit vectors `(..., D)` pair by pair, of which so many (0 to 2) are zero vectors.

    They are `1 - |a - b|^2 / 2`: without the cancellation that a dot product has where it is close to 1. A zero vector
    has cosine 0, not the 1/2 that its distance to a unit vector tells.
    """
    return 1.0 - (tf.cast(tf.reduce_sum(tf.square(a - b), -1), "float64") + zeros) / 2.0


def _zero_vectors(embeddings: tf.Tensor) -> tf.Tensor:
    """Float64 `(N,)`: 1 for zero vectors, 0 for others. XLA has the largest entries from the normalisation."""
    largest = tf.reduce_max(tf.abs(at_least_float32(tf.stop_gradient(embeddings))), -1)
    return tf.cast(largest == 0, "float64")


def _in_blocks(units: tf.Tensor, side: Side, block: int) -> Blocks:
    """`(N, ...)` to `(T, B, ...)`, B at most `block` and such that few embeddings are missing in the last block."""
    known = units.shape[0]
    count = tf.shape(units)[0] if known is None else known
    blocks = -(-count // block)
    edge = -(-count // (tf.maximum(blocks, 1) if known is None else blocks))  # the batch of a replica may be empty
    missing = blocks * edge - count
    full = known is not None and missing == 0
    if not full:
        side = side._replace(valid=tf.ones_like(side.skip, "bool") if side.valid is None else side.valid)

    def cut(x: tf.Tensor) -> tf.Tensor:
        x = x if full else tf.pad(x, [[0, missing]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.reshape(x, tf.concat([[blocks, edge], tf.shape(x)[1:]], 0))

    return Blocks(cut(units), side.each(cut))
