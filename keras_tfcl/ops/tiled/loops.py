"""All tiles, one after the other: sums forward, gradients backward, never more than one tile of pairs at a time.

With `L = F(R)`, `R_i = sum_j phi(s_ij)` and `a_i = dL/dR_i`, the gradient of a symmetric sum is one product a tile:
`dL/dz_i = sum_j H_ij z_j` with `H_ij = phi'(s_ij) (a_i + a_j)`. So each unordered pair of blocks is visited once, for
its rows and its columns alike, forward and backward: half the products that automatic differentiation would make.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_tfcl.ops.tiled.runs import Side
from keras_tfcl.ops.tiled.tiles import Kernel, Sums, as_columns, as_rows, is_mixed, tile_gradient, tile_sums, when


def self_sums(kernel: Kernel, z: Any, side: Side) -> Sums:
    """Sums of every row over all rows.

    Args:
        kernel: what to sum.
        z: rows in blocks `(T, B, D)`, such that products of rows are what `kernel` expects.
        side: of the rows, in blocks.

    Returns:
        `Sums` of `(T, K + 1, B)` and `(T, B)`, differentiable in z.
    """

    @tf.custom_gradient
    def compute(z: Any) -> Any:
        results = _forward_self(kernel, z, side)
        return results, lambda *cotangents: _backward_self(kernel, z, side, results, Sums(*cotangents))

    return compute(z)


def cross_sums(kernel: Kernel, anchors: Any, candidates: Any, rows: Side, columns: Side, both: bool) -> tuple[Sums, ...]:
    """Sums of every anchor over the candidates and, if `both`, of every candidate over the anchors.

    Args:
        kernel: what to sum.
        anchors, candidates: in blocks `(T, B, D)` each, with numbers of blocks and block sizes of their own.
        rows, columns: their sides, in blocks.
        both: compute the candidates' sums, too.

    Returns:
        One or two `Sums`, differentiable in anchors and candidates.
    """

    @tf.custom_gradient
    def compute(anchors: Any, candidates: Any) -> Any:
        results = _forward_cross(kernel, anchors, candidates, rows, columns, both)
        flat = [x for sums in results for x in sums]

        def gradient(*cotangents: Any) -> Any:
            given = [Sums(*cotangents[n : n + 2]) for n in range(0, len(cotangents), 2)]
            return _backward_cross(kernel, anchors, candidates, (rows, columns), results, given)

        return flat, gradient

    flat = compute(anchors, candidates)
    return tuple(Sums(*flat[n : n + 2]) for n in range(0, len(flat), 2))


def _forward_self(kernel: Kernel, z: Any, side: Side) -> Sums:
    def pair(q: Any, sums: Sums) -> Sums:
        i, j = _unordered_pair(q, blocks)
        rows, columns = as_rows(_block(side, i)), as_columns(_block(side, j))
        product = _product(z, i, z, j)
        of_rows, of_columns = when(
            _mixed(rows, columns),
            lambda mixed: (
                tile_sums(kernel, product, rows, columns, 1, mixed),
                tile_sums(kernel, product, columns, rows, 0, mixed),
            ),
        )
        return _merge(kernel, _merge(kernel, sums, i, of_rows), j, of_columns)

    def diagonal(i: Any, sums: Sums) -> Sums:
        rows, columns = as_rows(_block(side, i)), as_columns(_block(side, i))
        return _merge(kernel, sums, i, tile_sums(kernel, _product(z, i, z, i), rows, columns, 1, mixed=True))

    blocks = _blocks(z)
    sums = _loop(blocks * (blocks - 1) // 2, pair, _empty(kernel, z))
    return _finish(kernel, _loop(blocks, diagonal, sums))


def _backward_self(kernel: Kernel, z: Any, side: Side, results: Sums, cotangents: Sums) -> Any:
    def tile(i: Any, j: Any, mixed: bool | None) -> tuple[Any, Any]:
        rows, columns = as_rows(_block(side, i)), as_columns(_block(side, j))
        product = _product(z, i, z, j)
        row_sums = [_sums_as_rows(x, i) for x in (results, cotangents)]
        column_sums = [_sums_as_columns(x, j) for x in (results, cotangents)]
        return when(
            _mixed(rows, columns) if mixed is None else mixed,
            lambda mixed: (
                tile_gradient(kernel, product, rows, columns, *row_sums, mixed)
                + tile_gradient(kernel, product, columns, rows, *column_sums, mixed)
            ),
        )

    def pair(q: Any, gradient: Any) -> Any:
        i, j = _unordered_pair(q, blocks)
        h = tile(i, j, None)
        gradient = _add(gradient, i, tf.matmul(h, z[j]))
        return _add(gradient, j, tf.matmul(h, z[i], transpose_a=True))

    def diagonal(i: Any, gradient: Any) -> Any:
        return _add(gradient, i, tf.matmul(tile(i, i, True), z[i]))

    blocks = _blocks(z)
    return _loop(blocks, diagonal, _loop(blocks * (blocks - 1) // 2, pair, tf.zeros_like(z)))


def _forward_cross(
    kernel: Kernel, anchors: Any, candidates: Any, rows: Side, columns: Side, both: bool
) -> tuple[Sums, ...]:
    def body(q: Any, state: tuple[Sums, ...]) -> tuple[Sums, ...]:
        i, j = q // width, q % width
        mine, other = as_rows(_block(rows, i)), as_columns(_block(columns, j))
        product = _product(anchors, i, candidates, j)

        def compute(mixed: bool) -> tuple[Sums, ...]:
            of_rows = tile_sums(kernel, product, mine, other, 1, mixed)
            return (of_rows, tile_sums(kernel, product, other, mine, 0, mixed)) if both else (of_rows,)

        parts = when(_mixed(mine, other), compute)
        return tuple(_merge(kernel, sums, at, part) for sums, at, part in zip(state, (i, j), parts, strict=False))

    width = _blocks(candidates)
    state = (_empty(kernel, anchors), _empty(kernel, candidates))[: 1 + both]
    return tuple(_finish(kernel, sums) for sums in _loop(_blocks(anchors) * width, body, state))


def _backward_cross(
    kernel: Kernel, anchors: Any, candidates: Any, sides: tuple[Side, Side], results: Any, cotangents: Any
) -> tuple[Any, Any]:
    def body(q: Any, gradients: tuple[Any, Any]) -> tuple[Any, Any]:
        i, j = q // width, q % width
        mine, other = as_rows(_block(sides[0], i)), as_columns(_block(sides[1], j))
        product = _product(anchors, i, candidates, j)
        row_sums = [_sums_as_rows(x[0], i) for x in (results, cotangents)]
        column_sums = [_sums_as_columns(x[1], j) for x in (results, cotangents)] if len(results) == 2 else None

        def compute(mixed: bool) -> Any:
            h = tile_gradient(kernel, product, mine, other, *row_sums, mixed)
            return h if column_sums is None else h + tile_gradient(kernel, product, other, mine, *column_sums, mixed)

        h = when(_mixed(mine, other), compute)
        of_anchors, of_candidates = gradients
        of_anchors = _add(of_anchors, i, tf.matmul(h, candidates[j]))
        return of_anchors, _add(of_candidates, j, tf.matmul(h, anchors[i], transpose_a=True))

    width = _blocks(candidates)
    return _loop(_blocks(anchors) * width, body, (tf.zeros_like(anchors), tf.zeros_like(candidates)))


def _unordered_pair(q: Any, blocks: Any) -> tuple[Any, Any]:
    """The q-th of the `blocks * (blocks - 1) / 2` pairs of different blocks."""
    i = q % blocks
    return i, (i + q // blocks + 1) % blocks


def _mixed(rows: Side, columns: Side) -> Any:
    # Views differ between neighbours: no tile is free of excluded pairs.
    return True if rows.view is not None else is_mixed(rows, columns)


def _product(a: Any, i: Any, b: Any, j: Any) -> Any:
    return tf.matmul(a[i], b[j], transpose_b=True)


def _block(side: Side, i: Any) -> Side:
    return Side(*(None if x is None else x[i] for x in side))


def _sums_as_rows(sums: Sums, i: Any) -> Sums:
    return Sums(sums.logs[i][:, :, None], sums.logits[i][:, None])


def _sums_as_columns(sums: Sums, j: Any) -> Sums:
    return Sums(sums.logs[j][:, None, :], sums.logits[j][None, :])


def _empty(kernel: Kernel, z: Any) -> Sums:
    shape = tf.shape(z)
    logs = tf.fill([shape[0], len(kernel.terms) + 1, shape[1]], tf.cast(kernel.sums.empty, z.dtype))
    return Sums(logs, tf.zeros(shape[:2], z.dtype))


def _merge(kernel: Kernel, sums: Sums, i: Any, part: Sums) -> Sums:
    merged = kernel.sums.merge(sums.logs[i], part.logs)
    return Sums(tf.tensor_scatter_nd_update(sums.logs, [[i]], merged[None]), _add(sums.logits, i, part.logits))


def _finish(kernel: Kernel, sums: Sums) -> Sums:
    powers = [term.power for term in kernel.terms] + [1.0]
    return Sums(tf.stack([kernel.sums.logs(sums.logs[:, k], p) for k, p in enumerate(powers)], 1), sums.logits)


def _add(blocks: Any, i: Any, update: Any) -> Any:
    return tf.tensor_scatter_nd_add(blocks, [[i]], update[None])


def _blocks(z: Any) -> Any:
    return tf.shape(z)[0] if z.shape[0] is None else z.shape[0]


def _loop(count: Any, body: Callable[[Any, Any], Any], state: Any) -> Any:
    """`state = body(q, state)` for q = 0 ... count - 1."""
    known = count if isinstance(count, int) else None
    if known == 0:
        return state
    return tf.while_loop(
        lambda q, _: q < count,
        lambda q, state: (q + 1, body(q, state)),
        (tf.constant(0), state),
        parallel_iterations=1,  # no two tiles in memory at once
        maximum_iterations=known,
    )[1]
