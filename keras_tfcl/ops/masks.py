"""Masks of positives and negatives, from labels."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_tfcl.typing import Tensor, TensorLike


class Pairs(NamedTuple):
    """The pairs of A anchors and C candidates: two bool tensors `(A, C)` that exclude each other."""

    positive: Tensor
    negative: Tensor


def pair_masks(
    anchor_labels: Tensor,
    candidate_labels: Tensor,
    *,
    self_index: Tensor | None = None,
    anchor_views: Tensor | None = None,
    candidate_views: Tensor | None = None,
    candidate_mask: Tensor | None = None,
) -> Pairs:
    """Splits all pairs by the rule: positive = equal labels and not the same embedding; negative = different labels.

    Args:
        anchor_labels: integer `(A,)`.
        candidate_labels: integer `(C,)`.
        self_index: integer `(A,)`, the index of each anchor among the candidates, or -1 if it is not one of them; None
            if no anchor is a candidate. That pair is neither positive nor negative.
        anchor_views, candidate_views: integer `(A,)` and `(C,)`. If given, pairs of equal views are neither positive
            nor negative (`cross_view_only`).
        candidate_mask: bool `(C,)`. Where it is False, a candidate is neither positive nor negative.

    Returns:
        `Pairs(positive, negative)`.

    Example:

    >>> pair_masks([7, 7, 8], [7, 7, 8], self_index=[0, 1, 2]).positive.numpy()
    array([[False,  True, False],
           [ True, False, False],
           [False, False, False]])
    """
    anchor_labels, candidate_labels = ops.convert_to_tensor(anchor_labels), ops.convert_to_tensor(candidate_labels)
    same_label = ops.expand_dims(anchor_labels, 1) == ops.expand_dims(candidate_labels, 0)  # (A, C)
    allowed = ops.ones_like(same_label)
    if self_index is not None:
        columns = ops.arange(ops.shape(candidate_labels)[0], dtype="int32")
        allowed = ops.expand_dims(ops.cast(self_index, "int32"), 1) != ops.expand_dims(columns, 0)
    if anchor_views is not None:
        anchor_views, candidate_views = ops.cast(anchor_views, "int32"), ops.cast(candidate_views, "int32")
        other_view = ops.expand_dims(anchor_views, 1) != ops.expand_dims(candidate_views, 0)
        allowed = ops.logical_and(allowed, other_view)
    if candidate_mask is not None:
        allowed = ops.logical_and(allowed, ops.expand_dims(candidate_mask, 0))
    return Pairs(ops.logical_and(allowed, same_label), ops.logical_and(allowed, ops.logical_not(same_label)))


def as_labels(y_true: TensorLike, name: str = "y_true", multi_hot: bool = False) -> Tensor:
    """Turns labels into an integer tensor `(B,)`, without a conversion to float on the way.

    Args:
        y_true: integers or booleans `(B,)` or `(B, 1)`. Floats are accepted only outside of `tf.function`, where their
            values can be checked, and only if they are whole numbers.
        name: what an error calls them.
        multi_hot: whether `(B, L)` of 0 and 1, L > 1, is taken too.

    Returns:
        int64 `(B,)`; uint64 keeps its dtype. For multi-hot labels float32 `(B, L)`.

    Raises:
        ValueError: for any other rank, for non-integers, for strings.
    """
    labels: Tensor = y_true
    if not tf.is_tensor(y_true):  # Python floats become float64, so that nothing is lost before they are checked
        labels = tf.convert_to_tensor(y_true if hasattr(y_true, "dtype") else np.asarray(y_true))
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if labels.shape.rank == 2 and labels.shape[1] == 1:
        labels = tf.squeeze(labels, axis=1)
    if multi_hot and labels.shape.rank == 2 and dtype != "string":
        return _zeros_and_ones(labels, name)
    if labels.shape.rank != 1:
        raise ValueError(
            f"`{name}` must be integer labels of shape (B,) or (B, 1), one for each row of `y_pred`. Received: "
            f"shape={tuple(labels.shape)}. Give one-hot labels as argmax(labels, axis=-1)."
        )
    if dtype.startswith("float") or dtype == "bfloat16":
        labels = _whole_numbers(labels, dtype, name)
    elif dtype not in ("bool", "uint64") and not dtype.startswith(("int", "uint")):
        raise ValueError(f"`{name}` must be integer labels. Received: dtype={dtype}. Number them, for example with "
                         "numpy.unique(labels, return_inverse=True)[1].")  # fmt: skip
    return labels if dtype == "uint64" else tf.cast(labels, "int64")


def _zeros_and_ones(labels: tf.Tensor, name: str) -> tf.Tensor:
    labels = tf.cast(labels, "float32")
    known = (labels == 0) | (labels == 1)
    if tf.executing_eagerly() and not bool(tf.reduce_all(known)):
        raise ValueError(
            f"`{name}` of shape (B, L) must be multi-hot labels, 0 or 1. Received: shape={tuple(labels.shape)} with "
            f"values from {float(tf.reduce_min(labels))} to {float(tf.reduce_max(labels))}. Give one integer label for "
            "each row as (B,); views of one sample share it."
        )
    return tf.where(known, labels, float("nan"))  # which makes the loss NaN in a graph, where they cannot be looked at


def _whole_numbers(labels: tf.Tensor, dtype: str, name: str) -> tf.Tensor:
    remedy = f"Cast them before training: {name}.astype('int64')."
    if not tf.executing_eagerly():
        raise ValueError(f"`{name}` must be integer labels. Received: dtype={dtype}. {remedy}")
    values = tf.cast(labels, "float64").numpy()
    whole = (values == np.floor(values)) & (np.abs(values) < 2.0**63)  # neither NaN nor Inf, and fits in int64
    broken = values[~whole]
    if broken.size:
        raise ValueError(f"`{name}` must be integer labels. Received: dtype={dtype} with the value {broken[0]}. "
                         "Contrastive losses compare labels for equality; they are no regression targets.")  # fmt: skip
    return tf.cast(values, "int64")
