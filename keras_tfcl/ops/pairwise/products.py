"""The matrix products of the kernel, and what they are multiplied in."""

from __future__ import annotations

from typing import Protocol

import tensorflow as tf

from keras_tfcl._keras_compat import xla_dot


class Product(Protocol):
    """The product of two matrices, either of them transposed first."""

    def __call__(
        self, a: tf.Tensor, b: tf.Tensor, transpose_a: bool = False, transpose_b: bool = False
    ) -> tf.Tensor: ...


def check_precision(precision: object) -> str | None:
    """Returns `precision`; raises ValueError unless it is None, `"highest"` or `"input"`."""
    if precision is None or (isinstance(precision, str) and precision in ("highest", "input")):
        return precision
    raise ValueError(
        "`precision` must be None (TensorFlow's own, which may be TF32 on a GPU), 'highest' (float32 in full) or "
        f"'input' (half precision for half-precision embeddings, with float32 sums). Received: precision={precision!r}."
    )


def product_of(precision: str | None, embeddings: tf.DType) -> Product:
    """The product of float32 or float64 matrices.

    Args:
        precision: None is `tf.matmul`. `"highest"` multiplies float32 in full, where a GPU would take TF32. `"input"`
            rounds both matrices to the dtype of the embeddings, if that is float16 or bfloat16, and sums in float32.
        embeddings: their dtype.
    """
    half = embeddings if precision == "input" and embeddings in (tf.float16, tf.bfloat16) else None
    if precision != "highest" and half is None:
        return tf.matmul

    def product(a: tf.Tensor, b: tf.Tensor, transpose_a: bool = False, transpose_b: bool = False) -> tf.Tensor:
        a, b = tf.stop_gradient(a), tf.stop_gradient(b)  # the kernel has a gradient of its own, the operation has none
        dot = xla_dot(transpose_a, transpose_b, a.dtype, highest=half is None)
        if half is None:
            return dot(a, b)
        if half == tf.bfloat16:
            return dot(tf.cast(a, half), tf.cast(b, half))
        # Gradients by cosines, which come first, are as small as 1 / N^2: float16 holds them as shares of the largest.
        largest = tf.reduce_max(tf.abs(a))
        largest = tf.where(largest > 0, largest, 1.0)
        return largest * dot(tf.cast(a / largest, half), tf.cast(b, half))

    return product
