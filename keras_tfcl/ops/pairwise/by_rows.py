"""Functions that look at all the pairs of an anchor at once, for a strip of anchors at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import tensorflow as tf

from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.ops.pairwise.first_order import Gradient, first_order
from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.pairwise.products import product_of
from keras_tfcl.ops.sides import pairs_of
from keras_tfcl.typing import Tensor

Function = Callable[[tf.Tensor, Pairs, Logits], list[tf.Tensor]]


def losses_by_rows(
    losses_of_pairs: Callable[[tf.Tensor, Pairs], Tensor],
    comparison: Comparison,
    holder: object,
    block: int | None,
    precision: str | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss of each anchor, by a function of all its pairs, 0 if it has no positive; and whether it has one.

    It is computed for all anchors at once if `block` is None, or if the function reads tensors that are neither its
    arguments nor variables of the holder, because strips would lose their gradients.

    Args:
        losses_of_pairs: from cosines `(A, C)` and pairs to `(A,)`.
        comparison: who is compared with whom.
        holder: the object whose variables the function may read.
        block, precision: as in `map_rows`.

    Returns:
        Floats `(A,)` and bools `(A,)`.
    """

    def of_rows(cosines: tf.Tensor, pairs: Pairs, variables: Logits) -> list[tf.Tensor]:
        losses = variables.run(losses_of_pairs, cosines, pairs)
        return [losses, tf.cast(tf.reduce_any(pairs.positive, 1), cosines.dtype)]

    variables = Logits(tf.identity, holder)
    if block is not None and variables.explains(losses_of_pairs, *comparison.specs()):
        losses, positive = map_rows(of_rows, comparison, variables, outputs=2, block=block, precision=precision)
    else:
        losses, positive = of_rows(comparison.cosines(), comparison.pairs(), variables)
    return tf.where(positive > 0, losses, tf.zeros((), losses.dtype)), positive > 0


def map_rows(
    function: Function,
    comparison: Comparison,
    scaling: Logits,
    *,
    outputs: int,
    block: int,
    precision: str | None = None,
) -> list[tf.Tensor]:
    """`function` of the rows of all pairs, a strip of them at a time.

    Each strip is computed anew for its gradient and differentiated automatically: 1.5 times the products of the tiles.

    Args:
        function: from cosines `(S, C)`, their pairs and the scaling to a list of `(S,)`.
        comparison, scaling, precision: as for `reduce_pairs`.
        outputs: the length of that list.
        block: a strip has as many pairs as eight tiles of this edge.

    Returns:
        A list of `(A,)`, differentiable in the embeddings and the scaling's values.
    """
    z, c = comparison.units()
    mine, others = comparison.sides()
    product = product_of(precision, comparison.anchors.dtype)
    rows = tf.shape(z)[0]
    pairs_of_strip = min(8 * block * block, tf.int32.max)
    height = tf.clip_by_value(pairs_of_strip // tf.maximum(tf.shape(c)[0], 1), 1, rows)

    def strip(start: Tensor) -> tuple[tf.Tensor, Pairs]:
        """The numbers of the anchors, and their pairs. The last strip overlaps the one before it."""
        index = tf.minimum(start, rows - height) + tf.range(height)
        compared, same = pairs_of(mine.each(lambda x: tf.gather(x, index)), others)
        return index, Pairs(compared & same, compared & ~same)

    def over_strips(body: Callable[..., Iterable[tf.Tensor]], state: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        step = lambda start, *state: (start + height, *body(start, *state))  # noqa: E731
        return list(tf.while_loop(lambda start, *_: start < rows, step, (0, *state), parallel_iterations=1)[1:])

    @first_order
    def compute(z: tf.Tensor, c: tf.Tensor, *values: tf.Tensor) -> tuple[list[tf.Tensor], Gradient]:
        def forward(start: Tensor, *state: tf.Tensor) -> Iterator[tf.Tensor]:
            index, pairs = strip(start)
            parts = function(product(tf.gather(z, index), c, transpose_b=True), pairs, scaling.at(values))
            for old, new in zip(state, parts, strict=True):
                yield tf.tensor_scatter_nd_update(old, index[:, None], tf.cast(new, old.dtype))

        def gradient(*cotangents: tf.Tensor) -> list[tf.Tensor]:
            def backward(start: Tensor, dz: tf.Tensor, dc: tf.Tensor, *dv: tf.Tensor) -> list[tf.Tensor]:
                index, pairs = strip(start)
                units = tf.gather(z, index)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    cosines = product(units, c, transpose_b=True)
                    tape.watch([cosines, *values])
                    parts = function(cosines, pairs, scaling.at(values))
                given = [
                    tf.where(index >= start, tf.cast(tf.gather(x, index), part.dtype), tf.zeros((), part.dtype))
                    for x, part in zip(cotangents, parts, strict=True)
                ]
                h, *of_values = tape.gradient(parts, [cosines, *values], given, unconnected_gradients="zero")
                dz = tf.tensor_scatter_nd_add(dz, index[:, None], product(h, c))
                dc += product(h, units, transpose_a=True)
                return [dz, dc, *(old + new for old, new in zip(dv, of_values, strict=True))]

            return over_strips(backward, [tf.zeros_like(x) for x in (z, c, *values)])

        return over_strips(forward, [tf.zeros_like(z[:, 0])] * outputs), gradient

    return list(compute(z, c, *scaling.values))
