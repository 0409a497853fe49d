"""Functions that look at all the pairs of an anchor at once, for a strip of anchors at a time."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.ops.pairwise.logits import Logits
from keras_tfcl.ops.pairwise.products import product_of
from keras_tfcl.ops.sides import pairs_of
from keras_tfcl.ops.similarity import at_least_float32, l2_normalize
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
    one_pair = tf.zeros([1, 1]), Pairs(tf.ones([1, 1], "bool"), tf.ones([1, 1], "bool"))
    if block is not None and variables.explains(losses_of_pairs, *one_pair):
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
        comparison: who is compared with whom.
        scaling: from cosines to logits.
        outputs: the length of that list.
        block: a strip has as many pairs as eight tiles of this edge.
        precision: of the matrix products, see `product_of`.

    Returns:
        A list of `(A,)`, differentiable in the embeddings and the scaling's values.
    """
    z = l2_normalize(at_least_float32(comparison.anchors))
    mine, others = comparison.sides()
    c = z if comparison.candidates is None else l2_normalize(at_least_float32(comparison.candidates.embeddings))
    product = product_of(precision, comparison.anchors.dtype)
    rows = tf.shape(z)[0]
    height = tf.clip_by_value(8 * block * block // tf.maximum(tf.shape(c)[0], 1), 1, rows)

    def strip(start: Tensor) -> tuple[tf.Tensor, Pairs, tf.Tensor]:
        """The numbers of the anchors, their pairs, and which are new: the last strip overlaps the one before it."""
        index = tf.minimum(start, rows - height) + tf.range(height)
        compared, same = pairs_of(mine.each(lambda x: tf.gather(x, index)), others)
        pairs = Pairs(compared & same, compared & ~same)
        return index, pairs, index >= start

    @tf.custom_gradient
    def compute(z: tf.Tensor, c: tf.Tensor, *values: tf.Tensor) -> Tensor:
        def forward(start: Tensor, *state: tf.Tensor) -> tuple[Tensor, ...]:
            index, pairs, _ = strip(start)
            cosines = product(tf.gather(z, index), c, transpose_b=True)
            parts = function(cosines, pairs, scaling.at(values))
            put = [
                tf.tensor_scatter_nd_update(old, index[:, None], tf.cast(new, old.dtype))
                for old, new in zip(state, parts, strict=True)
            ]
            return (start + height, *put)

        state = (tf.constant(0), *[tf.zeros_like(z[:, 0])] * outputs)
        results = tf.while_loop(lambda start, *_: start < rows, forward, state, parallel_iterations=1)

        def gradient(*cotangents: tf.Tensor) -> list[tf.Tensor]:
            def backward(start: Tensor, dz: tf.Tensor, dc: tf.Tensor, *dv: tf.Tensor) -> tuple[Tensor, ...]:
                index, pairs, new = strip(start)
                units = tf.gather(z, index)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    cosines = product(units, c, transpose_b=True)
                    tape.watch([cosines, *values])
                    parts = function(cosines, pairs, scaling.at(values))
                given = [
                    tf.where(new, tf.cast(tf.gather(x, index), part.dtype), tf.zeros((), part.dtype))
                    for x, part in zip(cotangents, parts, strict=True)
                ]
                h, *of_values = tape.gradient(parts, [cosines, *values], given, unconnected_gradients="zero")
                dz = tf.tensor_scatter_nd_add(dz, index[:, None], product(h, c))
                dc += product(h, units, transpose_a=True)
                return (start + height, dz, dc, *(old + x for old, x in zip(dv, of_values, strict=True)))

            state = (tf.constant(0), *map(tf.zeros_like, (z, c, *values)))
            return list(tf.while_loop(lambda start, *_: start < rows, backward, state, parallel_iterations=1)[1:])

        return list(results[1:]), gradient

    return list(compute(z, c, *scaling.values))
