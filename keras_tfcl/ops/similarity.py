"""Cosine similarity, and the normalisation of embeddings."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl.typing import Tensor


def l2_normalize(embeddings: Tensor) -> Tensor:
    """Divides each embedding by its Euclidean length: `u = x / |x|`.

    A zero vector has no direction. It stays zero, so its cosine with every vector is 0, and its gradient is the
    gradient of `u = x`, which is finite and can move it away from zero. NaN and Inf give NaN.

    Args:
        embeddings: tensor `(..., D)` of any float dtype.

    Returns:
        Tensor of the same shape; float64 for float64 input, float32 for every other dtype.

    Example:

    >>> l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]], "float32")).numpy()
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    return _normalized(at_least_float32(embeddings))[0]


@tf.custom_gradient
def units(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """`l2_normalize` of float32 or float64, whose gradient holds one copy of the embeddings less."""
    u, largest, length = _normalized(x)
    return u, lambda by_u: (by_u - u * tf.reduce_sum(u * by_u, -1, keepdims=True)) / length / largest


def _normalized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`x / |x|` and two factors of `|x|`, which are 1 for a zero vector."""
    # Scaling by the largest entry first keeps the square in range for very short and very long float32 vectors.
    largest = ops.stop_gradient(ops.max(ops.abs(x), axis=-1, keepdims=True))
    largest = ops.where(largest == 0, ops.ones_like(largest), largest)
    x = x / largest
    squared = ops.sum(ops.square(x), axis=-1, keepdims=True)
    length = ops.sqrt(ops.where(squared == 0, ops.ones_like(squared), squared))
    return x / length, largest, length


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Computes all cosines `s_ij = a_i . b_j / (|a_i| |b_j|)`, in [-1, 1] up to rounding.

    Args:
        a: embeddings `(A, D)`, any float dtype, need not be normalised.
        b: embeddings `(C, D)`.

    Returns:
        `(A, C)`, float32 or, for float64 input, float64.

    Example:

    >>> cosine_similarity(np.eye(2, dtype="float32"), np.array([[0.0, 5.0]], "float32")).numpy()
    array([[0.],
           [1.]], dtype=float32)
    """
    return ops.matmul(l2_normalize(a), ops.transpose(l2_normalize(b)))


def at_least_float32(x: Tensor) -> Tensor:
    """Casts half precision (float16, bfloat16) up to float32; leaves float32 and float64 unchanged."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")
