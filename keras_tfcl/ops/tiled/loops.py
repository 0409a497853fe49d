"""All tiles, one after the other: sums forward, gradients backward, never more than one tile of pairs at a time.

With `L = F(R)`, `R_i = sum_j phi(s_ij)` and `a_i = dL/dR_i`, the gradient of a symmetric sum is one product a tile:
`dL/dz_i = sum_j H_ij z_j` with `H_ij = phi'(s_ij) (a_i + a_j)`. So each unordered pair of blocks is visited once, for
its rows and its columns alike, forward and backward: two thirds of the products that automatic differentiation makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_tfcl.ops.tiled.plan import Plan, cross_plan, pairs_plan
from keras_tfcl.ops.tiled.runs import Side
from keras_tfcl.ops.tiled.tiles import Kernel, Sums, as_columns, as_rows, tile_gradient, tile_sums


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


def cross_sums(
    kernel: Kernel, anchors: Any, candidates: Any, rows: Side, columns: Side, both: bool
) -> tuple[Sums, ...]:
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

        def gradient(*flat: Any) -> Any:
            cotangents = [Sums(*flat[n : n + 2]) for n in range(0, len(flat), 2)]
            return _backward_cross(kernel, anchors, candidates, (rows, columns), results, cotangents)

        return [x for sums in results for x in sums], gradient

    flat = compute(anchors, candidates)
    return tuple(Sums(*flat[n : n + 2]) for n in range(0, len(flat), 2))


def _forward_self(kernel: Kernel, z: Any, side: Side) -> Sums:
    def pair(i: Any, j: Any, sums: Sums, mixed: bool) -> Sums:
        rows, columns = as_rows(_block(side, i)), as_columns(_block(side, j))
        product = _product(z, i, z, j)
        sums = _merge(kernel, sums, i, tile_sums(kernel, product, rows, columns, 1, mixed))
        return _merge(kernel, sums, j, tile_sums(kernel, product, columns, rows, 0, mixed))

    def diagonal(i: Any, sums: Sums) -> Sums:
        rows, columns = as_rows(_block(side, i)), as_columns(_block(side, i))
        return _merge(kernel, sums, i, tile_sums(kernel, _product(z, i, z, i), rows, columns, 1, mixed=True))

    sums = _each_tile(pairs_plan(side), pair, _empty(kernel, z))
    return _finish(kernel, _loop(0, _blocks(z), diagonal, sums))


def _backward_self(kernel: Kernel, z: Any, side: Side, results: Sums, cotangents: Sums) -> Any:
    def tile(i: Any, j: Any, mixed: bool) -> Any:
        rows, columns = as_rows(_block(side, i)), as_columns(_block(side, j))
        product = _product(z, i, z, j)
        of_rows = tile_gradient(kernel, product, rows, columns, *_sums_as_rows(results, cotangents, i), mixed)
        of_columns = tile_gradient(kernel, product, columns, rows, *_sums_as_columns(results, cotangents, j), mixed)
        return of_rows + of_columns

    def pair(i: Any, j: Any, gradient: Any, mixed: bool) -> Any:
        h = tile(i, j, mixed)
        gradient = _add(gradient, i, tf.matmul(h, z[j]))
        return _add(gradient, j, tf.matmul(h, z[i], transpose_a=True))

    def diagonal(i: Any, gradient: Any) -> Any:
        return _add(gradient, i, tf.matmul(tile(i, i, mixed=True), z[i]))

    return _loop(0, _blocks(z), diagonal, _each_tile(pairs_plan(side), pair, tf.zeros_like(z)))


def _forward_cross(
    kernel: Kernel, anchors: Any, candidates: Any, rows: Side, columns: Side, both: bool
) -> tuple[Sums, ...]:
    def tile(i: Any, j: Any, state: tuple[Sums, ...], mixed: bool) -> tuple[Sums, ...]:
        mine, other = as_rows(_block(rows, i)), as_columns(_block(columns, j))
        product = _product(anchors, i, candidates, j)
        merged = [_merge(kernel, state[0], i, tile_sums(kernel, product, mine, other, 1, mixed))]
        if both:
            merged.append(_merge(kernel, state[1], j, tile_sums(kernel, product, other, mine, 0, mixed)))
        return tuple(merged)

    state = (_empty(kernel, anchors), _empty(kernel, candidates)) if both else (_empty(kernel, anchors),)
    return tuple(_finish(kernel, sums) for sums in _each_tile(cross_plan(rows, columns), tile, state))


def _backward_cross(
    kernel: Kernel, anchors: Any, candidates: Any, sides: tuple[Side, Side], results: Any, cotangents: Any
) -> tuple[Any, Any]:
    def tile(i: Any, j: Any, gradients: tuple[Any, Any], mixed: bool) -> tuple[Any, Any]:
        mine, other = as_rows(_block(sides[0], i)), as_columns(_block(sides[1], j))
        product = _product(anchors, i, candidates, j)
        h = tile_gradient(kernel, product, mine, other, *_sums_as_rows(results[0], cotangents[0], i), mixed)
        if len(results) == 2:
            of_columns = _sums_as_columns(results[1], cotangents[1], j)
            h += tile_gradient(kernel, product, other, mine, *of_columns, mixed)
        of_anchors = _add(gradients[0], i, tf.matmul(h, candidates[j]))
        return of_anchors, _add(gradients[1], j, tf.matmul(h, anchors[i], transpose_a=True))

    return _each_tile(cross_plan(*sides), tile, (tf.zeros_like(anchors), tf.zeros_like(candidates)))


def _each_tile(plan: Plan, body: Callable[[Any, Any, Any, bool], Any], state: Any) -> Any:
    """`state = body(i, j, state, mixed)` over all tiles. Two loops: XLA runs a `cond` within one at half the speed."""

    def step(mixed: bool) -> Callable[[Any, Any], Any]:
        return lambda q, state: body(plan.rows[q], plan.columns[q], state, mixed)

    if isinstance(plan.count, int) and plan.count == 0:
        return state
    if not isinstance(plan.plain, int):
        state = _loop(0, plan.plain, step(False), state)
    return _loop(plan.plain, plan.count, step(True), state)


def _loop(start: Any, stop: Any, body: Callable[[Any, Any], Any], state: Any) -> Any:
    """`state = body(q, state)` for q = start ... stop - 1."""
    return tf.while_loop(
        lambda q, _: q < stop,
        lambda q, state: (q + 1, body(q, state)),
        (tf.convert_to_tensor(start), state),
        parallel_iterations=1,  # no two tiles in memory at once
    )[1]


def _product(a: Any, i: Any, b: Any, j: Any) -> Any:
    return tf.matmul(a[i], b[j], transpose_b=True)


def _block(side: Side, i: Any) -> Side:
    return Side(*(None if x is None else x[i] for x in side))


def _sums_as_rows(results: Sums, cotangents: Sums, i: Any) -> tuple[Sums, Sums]:
    return tuple(Sums(x.logs[i][:, :, None], x.logits[i][:, None]) for x in (results, cotangents))


def _sums_as_columns(results: Sums, cotangents: Sums, j: Any) -> tuple[Sums, Sums]:
    return tuple(Sums(x.logs[j][:, None, :], x.logits[j][None, :]) for x in (results, cotangents))


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
