"""Cosine similarity: the one place where embeddings are normalised."""

from __future__ import annotations

import keras
from keras import ops

from keras_tfcl.typing import Tensor


def l2_normalize(embeddings: Tensor) -> Tensor:
    """Divides each embedding by its Euclidean length: `u = x / |x|`.

    A zero vector has no direction: it stays zero (so its cosine with everything is 0), and its gradient is that
    of `u = x`, finite and able to move it off zero. NaN and Inf give NaN.

    Args:
        embeddings: tensor `(..., D)` of any float dtype.

    Returns:
        Tensor of the same shape; float64 for float64 input, float32 for every other dtype.

    Example:

    >>> l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]], "float32")).numpy()
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    x = at_least_float32(embeddings)
    # Scaling by the largest entry first keeps the square in range for very short and very long float32 vectors.
    largest = ops.stop_gradient(ops.max(ops.abs(x), axis=-1, keepdims=True))
    x = x / ops.where(largest == 0, ops.ones_like(largest), largest)
    squared = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x / ops.sqrt(ops.where(squared == 0, ops.ones_like(squared), squared))


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """All cosines `s_ij = a_i . b_j / (|a_i| |b_j|)`, in [-1, 1] up to rounding.

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
    """Casts half precision (float16, bfloat16) up to float32; leaves float32 and float64 alone."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")
