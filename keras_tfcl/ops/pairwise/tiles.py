"""All tiles, one after the other: sums forward, gradients backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from keras_tfcl.ops.pairwise.hardest import Hardest, sum_over_strips
from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.pairwise.products import Product
from keras_tfcl.ops.pairwise.reducers import Reducer
from keras_tfcl.ops.pairwise.tile import Allows, Blocks, Tile
from keras_tfcl.typing import Tensor

# The cosines from which a negative counts, of the rows and of the columns. None: all of them.
Thresholds: TypeAlias = tuple[tf.Tensor | None, tf.Tensor | None]
Body: TypeAlias = Callable[..., list[tf.Tensor]]


class Tiles(NamedTuple):
    """The matrix of pairs of the rows and the columns, in tiles.

    Attributes:
        reducers: what to sum up.
        scaling: from cosines to logits.
        allows: which negatives may count, by their cosines. None: all.
        product: the matrix product.
        rows: the anchors.
        columns: the candidates, or the anchors once more if `symmetric`.
        symmetric: whether the columns are the rows, so that each pair of blocks is visited once.
        both: whether the columns are reduced over the rows, too.
    """

    reducers: list[Reducer]
    scaling: Logits
    allows: Allows
    product: Product
    rows: Blocks
    columns: Blocks
    symmetric: bool
    both: bool

    def at(self, rows: tf.Tensor, columns: tf.Tensor, values: Sequence[tf.Tensor]) -> Tiles:
        """The same with other embeddings and other values of the scaling."""
        columns = rows if self.symmetric else columns
        return self._replace(
            scaling=self.scaling.at(values),
            rows=self.rows._replace(units=rows),
            columns=self.columns._replace(units=columns),
        )

    @property
    def number(self) -> Tensor:
        """How many tiles are visited."""
        count = self.rows.count
        return count * (count + 1) // 2 if self.symmetric else count * self.columns.count

    def visit(self, body: Body, state: list[tf.Tensor], number: Tensor) -> list[tf.Tensor]:
        """`state = body(i, j, *state)` for the first `number` tiles; if symmetric, of those with i <= j."""

        def step(turn: Tensor, i: Tensor, j: Tensor, *state: tf.Tensor) -> tuple[Tensor, ...]:
            last = j + 1 >= self.columns.count
            following = tf.where(last, i + 1, i), tf.where(last, i + 1 if self.symmetric else 0, j + 1)
            return (turn + 1, *following, *body(i, j, *state))

        # One at a time: no two tiles are in memory at once. A count of turns tells the compiler how many there are.
        start = (*[tf.constant(0)] * 3, *state)
        return list(tf.while_loop(lambda turn, *_: turn < number, step, start, parallel_iterations=1)[3:])

    def cosines(self, i: Tensor, j: Tensor) -> tf.Tensor:
        return self.product(self.rows.units[i], self.columns.units[j], transpose_b=True)

    def tile(self, i: Tensor, j: Tensor, cosines: tf.Tensor, thresholds: Thresholds = (None, None)) -> Tile:
        rows = self.rows.side._replace(threshold=thresholds[0]).each(lambda x: x[i])
        columns = self.columns.side._replace(threshold=thresholds[1]).each(lambda x: x[j])
        first = i * tf.shape(cosines)[0], j * tf.shape(cosines)[1]
        return Tile(cosines, rows, columns, self.scaling, self.allows, first)

    def empty(self) -> list[tf.Tensor]:
        """What the reducers hold of no pairs: `(T, K, B)` of the rows and, if `both`, of the columns."""
        values = tf.constant([r.empty for r in self.reducers], self.rows.units.dtype)[None, :, None]
        blocks = [self.rows.units, self.columns.units] if self.both else [self.rows.units]
        return [tf.tile(values, [tf.shape(x)[0], 1, tf.shape(x)[1]]) for x in blocks]

    def forward(self, i: Tensor, j: Tensor, *held: tf.Tensor) -> list[tf.Tensor]:
        """Merges what the tile gives into what the reducers hold."""
        tile, state = self.tile(i, j, self.cosines(i, j)), list(held)

        def merge(side: int, n: Tensor, axis: int, counts: tf.Tensor | bool = True) -> None:
            merged = []
            for reducer, before in zip(self.reducers, tf.unstack(state[side][n]), strict=True):
                new = reducer.reduce(reducer.values(tile, axis), tile.mask(reducer.over, axis), axis)
                merged.append(reducer.merge(before, tf.where(counts, new, tf.cast(reducer.empty, new.dtype))))
            state[side] = tf.tensor_scatter_nd_update(state[side], [[n]], tf.stack(merged)[None])

        merge(0, i, axis=1)
        if self.symmetric:  # the columns of a tile on the diagonal are its rows
            merge(0, j, axis=0, counts=tf.not_equal(i, j))
        elif self.both:
            merge(1, j, axis=0)
        return state

    def backward(self, held: Sequence[tf.Tensor], cotangents: Sequence[tf.Tensor], thresholds: Thresholds) -> Body:
        """A body that adds the tile's gradients by the rows, the columns and the scaling's values."""
        a, c, values = self.rows.units, self.columns.units, self.scaling.values
        axes = [(1, 0), (0, 0 if self.symmetric else 1)] if self.symmetric or self.both else [(1, 0)]

        def body(i: Tensor, j: Tensor, da: tf.Tensor, dc: tf.Tensor, *dv: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                cosines = self.cosines(i, j)
                tape.watch([cosines, *values])
                tile = self.tile(i, j, cosines, thresholds)
            slope = tf.zeros_like(cosines)  # by the logits
            for k, reducer in enumerate(self.reducers):
                at = {1: lambda x, k=k: x[i, k][:, None], 0: lambda x, k=k: x[j, k][None]}
                sides = [(axis, at[axis](held[side]), at[axis](cotangents[side])) for axis, side in axes]
                slope += reducer.gradient(tile, sides)
            h, *of_values = tape.gradient(tile.logits, [cosines, *values], slope, unconnected_gradients="zero")
            da = _add(da, i, self.product(h, c[j]))
            of_columns = self.product(h, a[i], transpose_a=True)
            if self.symmetric:  # on the diagonal the columns are the rows: once for z, where H is symmetric, half for f
                da = _add(da, j, tf.cast(i != j, h.dtype) * of_columns)
                of_values = [tf.where(i == j, x / 2, x) for x in of_values]
            else:
                dc = _add(dc, j, of_columns)
            return [da, dc, *(old + new for old, new in zip(dv, of_values, strict=True))]

        return body


def sum_over_tiles(tiles: Tiles, hardest: Hardest = None) -> list[list[tf.Tensor]]:
    """What the reducers hold for each row and, if `both`, for each column: `(T, B)` for each reducer.

    It is differentiable in the embeddings and in the scaling's values.

    Args:
        tiles: the pairs.
        hardest: how many of so many negatives, the hardest, count. None: all.
    """

    @tf.custom_gradient
    def sums(a: tf.Tensor, c: tf.Tensor, *values: tf.Tensor) -> Tensor:
        now = tiles.at(a, c, values)
        zeros = [tf.zeros_like(x) for x in (a, c, *values)]
        thresholds: Thresholds = (None, None)
        weighs = [k for k, reducer in enumerate(now.reducers) if reducer.has_slope]
        # A sum whose slope does not depend on its value: the same loop can give both.
        at_once = hardest is None and len(weighs) == 1 and now.reducers[weighs[0]].additive
        if hardest is not None:
            held, thresholds = _over_strips(now, hardest)
        elif at_once:
            held = now.empty()
            slopes = now.backward(held, [tf.ones_like(x) for x in held], thresholds)

            def value_and_gradient(i: Tensor, j: Tensor, *state: tf.Tensor) -> list[tf.Tensor]:
                return now.forward(i, j, *state[: len(held)]) + slopes(i, j, *state[len(held) :])

            state = now.visit(value_and_gradient, held + zeros, now.number)
            held, unit = state[: len(held)], state[len(held) :]
        else:
            held = now.visit(now.forward, now.empty(), now.number)

        def gradient(*cotangents: tf.Tensor) -> list[tf.Tensor]:
            body = now.backward(held, cotangents, thresholds)
            if not at_once:
                return now.visit(body, zeros, now.number)
            # `unit` is the gradient where every embedding has the weight 1. Other weights take a loop of their own.
            weight, equal = _equal_weight(now, [x[:, weighs[0]] for x in cotangents])
            given = [tf.where(equal, tf.cast(weight, x.dtype) * x, tf.zeros((), x.dtype)) for x in unit]
            return now.visit(body, given, tf.where(equal, 0, now.number))

        return held, gradient

    held = sums(tiles.rows.units, tf.zeros(()) if tiles.symmetric else tiles.columns.units, *tiles.scaling.values)
    return [tf.unstack(x, axis=1) for x in held]


def _over_strips(tiles: Tiles, hardest: Callable[[tf.Tensor], tf.Tensor]) -> tuple[list[tf.Tensor], Thresholds]:
    """What the reducers hold, and the thresholds, from strips of anchors."""
    choice = tiles.reducers, tiles.scaling, tiles.allows, hardest, tiles.product
    held, threshold = sum_over_strips(*choice, tiles.rows, tiles.columns)
    if not tiles.both:
        return [held], (threshold, threshold if tiles.symmetric else None)
    of_columns, of_column = sum_over_strips(*choice, tiles.columns, tiles.rows)
    return [held, of_columns], (threshold, of_column)


def _equal_weight(tiles: Tiles, weights: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The largest weight, and whether all valid embeddings have it."""
    largest = tf.reduce_max(tf.stack([tf.reduce_max(x) for x in weights]))
    equal = [
        tf.reduce_all(x == largest if blocks.side.valid is None else (x == largest) | ~blocks.side.valid)
        for x, blocks in zip(weights, (tiles.rows, tiles.columns), strict=False)
    ]
    return largest, tf.reduce_all(tf.stack(equal))


def _add(blocks: tf.Tensor, i: Tensor, block: tf.Tensor) -> tf.Tensor:
    return tf.tensor_scatter_nd_add(blocks, [[i]], block[None])
