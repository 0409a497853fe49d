"""Keras' reductions, over the anchors that have a loss."""

from __future__ import annotations

import tensorflow as tf
from keras import ops

from keras_tfcl.ops import replicas
from keras_tfcl.typing import Tensor, TensorLike


def reduce_losses(
    losses: Tensor, valid: Tensor, sample_weight: TensorLike | None, reduction: str | None, over_replicas: bool = False
) -> Tensor:
    """Weighs and reduces the losses of the anchors as Keras does, leaving out anchors without a positive.

    Args:
        losses: `(B,)` or `(B, V)`, 0 where not valid.
        valid: bool of the same shape.
        sample_weight: None, a number, `(B,)`, or the shape of `losses`.
        reduction: `"sum_over_batch_size"` or `"mean"`: sum of weighted losses / number of valid anchors;
            `"mean_with_sample_weight"`: divided by the sum of their weights instead; `"sum"`; `"none"` or None.
        over_replicas: whether to reduce over the anchors of all replicas. The gradients of the replicas then add up to
            the gradient of the whole loss, however the anchors are distributed.

    Returns:
        A scalar, or for `"none"` the weighted losses. 0 when no anchor is valid.
    """
    valid = ops.cast(valid, losses.dtype)
    weight = valid if sample_weight is None else valid * broadcast_weight(sample_weight, losses)
    weighted = losses * weight
    if reduction in (None, "none"):
        return weighted
    counted = weight if reduction == "mean_with_sample_weight" else valid
    # One sum for both is less to compile than two.
    total, divisor = ops.unstack(ops.sum(ops.reshape(ops.stack([weighted, counted]), (2, -1)), axis=1))
    if reduction != "sum":
        replica_count = tf.distribute.get_strategy().num_replicas_in_sync
        divisor = replicas.total(divisor) if over_replicas else replica_count * divisor
        total /= ops.where(divisor == 0, ops.ones_like(divisor), divisor)  # unlike divide_no_nan it keeps NaN
    # Keras' convention: gradients are summed over replicas, so each replica gives its share of the whole.
    return replicas.with_value_of_all(total) if over_replicas else total


def broadcast_weight(sample_weight: TensorLike | None, losses: Tensor) -> Tensor:
    """Gives `(B,)` or `(B, 1)` weights the shape of `(B,)` or `(B, V)` losses.

    Weights that are negative or not finite become NaN in a graph, where they cannot be looked at.

    Raises:
        ValueError: if there is not one weight for each sample, or for each of its views; and in eager mode for weights
            that are negative or not finite.
    """
    weight = ops.cast(sample_weight, losses.dtype)
    given, expected = tuple(weight.shape), tuple(losses.shape)
    if len(given) == len(expected) + 1 and given[-1] == 1:
        weight = ops.squeeze(weight, axis=-1)
    elif len(given) == 1 and len(expected) == 2:
        weight = ops.expand_dims(weight, axis=-1)
    shape = tuple(weight.shape)
    fits = len(shape) in (0, len(expected)) and all(
        n in (m, 1) or None in (n, m) for n, m in zip(shape, expected, strict=False)
    )
    if not fits or (shape and shape[0] == 1 != expected[0] and expected[0] is not None):
        raise ValueError(
            f"`sample_weight` must have shape {expected[:1]} or {expected}. Received: shape {given}. Pass one weight "
            "for each sample, or for each view of it."
        )
    valid = tf.math.is_finite(weight) & (weight >= 0)
    if tf.executing_eagerly() and not bool(tf.reduce_all(valid)):
        raise ValueError(
            "`sample_weight` must be finite and at least 0: a negative weight would train an anchor away from its "
            f"positives. Received: {float(weight[~valid][0])}, and {int(tf.reduce_sum(tf.cast(~valid, 'int32')))} such "
            "in all. Use 0 to leave out the loss of an anchor."
        )
    return tf.where(valid, weight, float("nan"))
