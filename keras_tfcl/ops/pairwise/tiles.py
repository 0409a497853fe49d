"""All tiles, one after the other: sums forward, gradients backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

from keras_tfcl.ops.pairwise.hardest import Hardest, sum_over_strips
from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.pairwise.reducers import Reducer
from keras_tfcl.ops.pairwise.tile import Allows, Blocks, Tile
from keras_tfcl.ops.sides import Side
from keras_tfcl.typing import Tensor

# The cosines from which a negative counts, of the rows and of the columns. None: all of them.
Thresholds: TypeAlias = tuple[tf.Tensor | None, tf.Tensor | None]


def sum_over_tiles(
    reducers: list[Reducer],
    scaling: Logits,
    allows: Allows,
    rows: Blocks,
    columns: Blocks | None = None,
    both: bool = False,
    hardest: Hardest = None,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """What the reducers hold for each row and, if `both`, for each column.

    Args:
        reducers: what to sum up.
        scaling: from cosines to logits.
        allows: which negatives may count, by their cosines. None: all.
        rows: the anchors.
        columns: the candidates. None: the rows themselves.
        both: reduce the columns over the rows, too.
        hardest: how many of so many negatives, the hardest, count. None: all.

    Returns:
        `(T, B)` for each reducer, of the rows and of the columns (empty unless `both`), differentiable in the
        embeddings and in the scaling's values.
    """
    symmetric = columns is None
    others = rows if columns is None else columns
    two_sided, number = symmetric or both, len(reducers)
    sloped = 0 if reducers[0].additive else None

    def tile(i: Tensor, j: Tensor, cosines: tf.Tensor, scaling: Logits, thresholds: Thresholds = (None, None)) -> Tile:
        first = i * tf.shape(cosines)[0], j * tf.shape(cosines)[1]
        sides = rows.side._replace(threshold=thresholds[0]), others.side._replace(threshold=thresholds[1])
        return Tile(cosines, sides[0].each(lambda x: x[i]), sides[1].each(lambda x: x[j]), scaling, allows, first)

    def each_tile(body: Callable[..., list[tf.Tensor]], state: list[tf.Tensor], until: Tensor) -> list[tf.Tensor]:
        """`state = body(i, j, *state)` over all tiles of the first `until` rows of them; if symmetric, with i <= j."""

        def step(i: Tensor, j: Tensor, *state: tf.Tensor) -> tuple[Tensor, ...]:
            last = j + 1 >= others.count
            following = tf.where(last, i + 1, i), tf.where(last, i + 1 if symmetric else 0, j + 1)
            return (*following, *body(i, j, *state))

        start = (tf.constant(0), tf.constant(0), *state)
        # One at a time: no two tiles are in memory at once.
        return list(tf.while_loop(lambda i, *_: i < until, step, start, parallel_iterations=1)[2:])

    @tf.custom_gradient
    def sums(a: tf.Tensor, c: tf.Tensor, *values: tf.Tensor) -> Tensor:
        second, at_values = a if symmetric else c, scaling.at(values)

        def forward(i: Tensor, j: Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
            now, held = tile(i, j, tf.matmul(a[i], second[j], transpose_b=True), at_values), list(state)
            for k, reducer in enumerate(reducers):
                of_rows = reducer.reduce(reducer.values(now, 1), now.mask(reducer.over, 1), 1)
                held[k] = _put(held[k], i, reducer.merge(held[k][i], of_rows))
                if two_sided:
                    of_columns = reducer.reduce(reducer.values(now, 0), now.mask(reducer.over, 0), 0)
                    if symmetric:  # the columns of a tile on the diagonal are its rows
                        of_columns = tf.where(i == j, tf.cast(reducer.empty, a.dtype), of_columns)
                    at = k if symmetric else number + k
                    held[at] = _put(held[at], j, reducer.merge(held[at][j], of_columns))
            return held

        def backward(
            held: list[tf.Tensor], cotangents: Sequence[tf.Tensor], thresholds: Thresholds
        ) -> Callable[..., list[tf.Tensor]]:
            results = list(zip(held, cotangents, strict=True))

            def body(i: Tensor, j: Tensor, da: tf.Tensor, dc: tf.Tensor, *dv: tf.Tensor) -> list[tf.Tensor]:
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    cosines = tf.matmul(a[i], second[j], transpose_b=True)
                    tape.watch([cosines, *values])
                    now = tile(i, j, cosines, at_values, thresholds)
                slope = tf.zeros_like(cosines)  # by the logits
                for k, reducer in enumerate(reducers):
                    sides = [(1, *(x[i][:, None] for x in results[k]))]
                    if two_sided:
                        sides.append((0, *(x[j][None] for x in results[k if symmetric else number + k])))
                    slope += reducer.gradient(now, sides)
                sources = [cosines, *values]
                h, *of_values = tape.gradient(now.logits, sources, slope, unconnected_gradients="zero")
                da = _add(da, i, tf.matmul(h, second[j]))
                of_columns = tf.matmul(h, a[i], transpose_a=True)
                if symmetric:  # on the diagonal the columns are the rows: once for z, where H is symmetric, half for f
                    da = _add(da, j, tf.cast(i != j, h.dtype) * of_columns)
                    of_values = [tf.where(i == j, x / 2, x) for x in of_values]
                else:
                    dc = _add(dc, j, of_columns)
                return [da, dc, *(old + new for old, new in zip(dv, of_values, strict=True))]

            return body

        start, nothing = _empty(reducers, a) + (_empty(reducers, c) if both else []), [*map(tf.zeros_like, (a, c, *values))]
        thresholds: Thresholds = (None, None)
        unit = None
        if hardest is not None:
            choice = reducers, at_values, allows, hardest
            mine, theirs = rows._replace(units=a), others._replace(units=second)
            held, threshold = sum_over_strips(*choice, mine, theirs)
            thresholds = threshold, threshold if symmetric else None
            if both:
                of_columns, threshold = sum_over_strips(*choice, theirs, mine)
                held, thresholds = held + of_columns, (thresholds[0], threshold)
        elif sloped is not None:
            ones = backward(start, [tf.ones_like(x) for x in start], thresholds)

            def together(i: Tensor, j: Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
                return forward(i, j, *state[: len(start)]) + ones(i, j, *state[len(start) :])

            both_of = each_tile(together, start + nothing, rows.count)
            held, unit = both_of[: len(start)], both_of[len(start) :]
        else:
            held = each_tile(forward, start, rows.count)

        def gradient(*cotangents: tf.Tensor) -> list[tf.Tensor]:
            body = backward(held, cotangents, thresholds)
            if unit is None:
                return each_tile(body, nothing, rows.count)
            same, equal = _equal(cotangents[sloped::number], [rows.side, others.side])
            return each_tile(body, [tf.where(equal, same * x, 0.0) for x in unit], tf.where(equal, 0, rows.count))

        return held, gradient

    held = sums(rows.units, tf.zeros(()) if columns is None else columns.units, *scaling.values)
    return held[:number], held[number:]


def _equal(cotangents: Sequence[tf.Tensor], sides: Sequence[Side]) -> tuple[tf.Tensor, tf.Tensor]:
    """A cotangent, and whether it is that of all embeddings that are valid."""
    one = cotangents[0][0, 0]
    equal = [
        tf.reduce_all((x == one) if side.valid is None else ((x == one) | ~side.valid))
        for x, side in zip(cotangents, sides, strict=False)
    ]
    return one, tf.reduce_all(tf.stack(equal))


def _empty(reducers: list[Reducer], units: tf.Tensor) -> list[tf.Tensor]:
    return [tf.fill(tf.shape(units)[:2], tf.cast(reducer.empty, units.dtype)) for reducer in reducers]


def _put(blocks: tf.Tensor, i: Tensor, block: tf.Tensor) -> tf.Tensor:
    return tf.tensor_scatter_nd_update(blocks, [[i]], block[None])


def _add(blocks: tf.Tensor, i: Tensor, block: tf.Tensor) -> tf.Tensor:
    return tf.tensor_scatter_nd_add(blocks, [[i]], block[None])
