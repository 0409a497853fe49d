"""All tiles, one after the other: sums forward, gradients backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.pairwise.products import Product
from keras_tfcl.ops.pairwise.reducers import Reducer
from keras_tfcl.ops.pairwise.tile import Allows, Blocks, Tile
from keras_tfcl.typing import Tensor

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

    def tile(self, i: Tensor, j: Tensor, cosines: tf.Tensor) -> Tile:
        rows, columns = self.rows.side.each(lambda x: x[i]), self.columns.side.each(lambda x: x[j])
        return Tile(cosines, rows, columns, self.scaling, self.allows)

    def empty(self) -> list[tf.Tensor]:
        """What the reducers hold of no pairs: `(T, K, B)` of the rows and, if `both`, of the columns."""
        values = tf.constant([r.empty for r in self.reducers], self.rows.units.dtype)[None, :, None]
        blocks = [self.rows.units, self.columns.units] if self.both else [self.rows.units]
        return [tf.tile(values, [tf.shape(x)[0], 1, tf.shape(x)[1]]) for x in blocks]

    def zeros(self) -> list[tf.Tensor]:
        """No gradient: by the rows, the columns, and the values that the tiles differentiate by."""
        columns = tf.zeros(()) if self.symmetric else self.columns.units
        return [tf.zeros_like(x) for x in (self.rows.units, columns, *self.scaling.values_in_tiles)]

    def forward(self, i: Tensor, j: Tensor, *held: tf.Tensor) -> list[tf.Tensor]:
        """Merges what the tile gives into what the reducers hold."""
        tile, state = self.tile(i, j, self.cosines(i, j)), list(held)

        def merge(side: int, n: Tensor, axis: int, counts: tf.Tensor | bool = True) -> None:
            merged = []
            for reducer, before in zip(self.reducers, tf.unstack(state[side][n]), strict=True):
                new = reducer.reduce([tile], axis)
                merged.append(reducer.merge(before, tf.where(counts, new, tf.cast(reducer.empty, new.dtype))))
            state[side] = tf.tensor_scatter_nd_update(state[side], [[n]], tf.stack(merged)[None])

        merge(0, i, axis=1)
        if self.symmetric:  # the columns of a tile on the diagonal are its rows
            merge(0, j, axis=0, counts=tf.not_equal(i, j))
        elif self.both:
            merge(1, j, axis=0)
        return state

    def backward(self, held: Sequence[tf.Tensor], cotangents: Sequence[tf.Tensor]) -> Body:
        """A body that adds the tile's gradients to `zeros`."""
        a, c, values = self.rows.units, self.columns.units, self.scaling.values_in_tiles
        of_columns = 0 if self.symmetric else 1 if self.both else None  # which of `held` has the sums of the columns

        def body(i: Tensor, j: Tensor, da: tf.Tensor, dc: tf.Tensor, *dv: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                cosines = self.cosines(i, j)
                tape.watch([cosines, *values])
                tile = self.tile(i, j, cosines)
            slope = tf.zeros_like(cosines)  # by the logits
            for k, reducer in enumerate(self.reducers):
                sides = [(1, held[0][i, k][:, None], cotangents[0][i, k][:, None])]
                if of_columns is not None:
                    sides.append((0, held[of_columns][j, k][None], cotangents[of_columns][j, k][None]))
                slope += reducer.gradient(tile, sides)
            h, *of_values = tape.gradient(tile.logits, [cosines, *values], slope, unconnected_gradients="zero")
            da = _add(da, i, self.product(h, c[j]))
            by_columns = self.product(h, a[i], transpose_a=True)
            if self.symmetric:  # on the diagonal the columns are the rows: once for z, where H is symmetric, half for f
                da = _add(da, j, tf.cast(i != j, h.dtype) * by_columns)
                of_values = [tf.where(i == j, x / 2, x) for x in of_values]
            else:
                dc = _add(dc, j, by_columns)
            return [da, dc, *(old + new for old, new in zip(dv, of_values, strict=True))]

        return body

    def gradients(self, da: tf.Tensor, dc: tf.Tensor, *dv: tf.Tensor) -> list[tf.Tensor]:
        """From the gradients of all tiles, those by the rows, the columns and all values of the scaling."""
        if not self.scaling.linear:
            return [da, dc, *dv]
        products = tf.cast(tf.reduce_sum(self.rows.units * da, 2), "float64")  # of H_ij s_ij, of each row
        total = tf.reduce_sum(products) / (2.0 if self.symmetric else 1.0)
        return [da, dc, *self.scaling.gradient_by_values(total)]


def _add(blocks: tf.Tensor, i: Tensor, block: tf.Tensor) -> tf.Tensor:
    return tf.tensor_scatter_nd_add(blocks, [[i]], block[None])
