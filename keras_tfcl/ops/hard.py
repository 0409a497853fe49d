"""The hardest negatives of each anchor."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from keras_tfcl.typing import Tensor

# A float32 dot product of unit vectors is off by up to 8e-7, so that copies of an embedding, or one pair computed
# twice, may have different cosines: those closer than this count as tied.
TIE = {"float64": 1e-12, "float32": 1e-6}


def hardest(similarity: Tensor, mask: Tensor, *, alpha: float | None = None, top_k: int | None = None) -> Tensor:
    """Marks each anchor's hardest negatives: those with `s >= the k-th largest`, ties included.

    `k = ceil(alpha * n)` or `top_k`, at most n, where n is the anchor's number of negatives; an anchor without
    negatives keeps none.

    Args:
        similarity: cosines `(A, C)`, float32 or float64.
        mask: bool `(A, C)`, True where the candidate is a negative of the anchor.
        alpha: fraction to keep, in (0, 1]. Pass either this or `top_k`.
        top_k: number to keep, at least 1.

    Returns:
        bool `(A, C)`.

    Example:

    >>> s = np.array([[0.9, 0.1, 0.5, 0.5]], "float32")
    >>> hardest(s, np.array([[False, True, True, True]]), top_k=1).numpy()
    array([[False, False,  True,  True]])

    Reference: Wang and Liu 2021, arXiv 2012.09740, eq. 8.
    """
    return keep_nearest(similarity, mask, lambda count: number_of_hardest(count, alpha=alpha, top_k=top_k))


def number_of_hardest(count: Tensor, *, alpha: float | None = None, top_k: int | None = None) -> Tensor:
    """k, int32, of `count` negatives, int32: `ceil(alpha * count)` or `top_k`, at most `count`."""
    if top_k is not None:
        return ops.minimum(top_k, count)
    # 0.07 * 100 is a little more than 7 in floating point.
    return ops.cast(ops.ceil(alpha * ops.cast(count, "float64") - 1e-9), "int32")


def keep_nearest(similarity: Tensor, mask: Tensor, number: Callable[[Tensor], Tensor]) -> Tensor:
    """Marks each anchor's k nearest candidates of a mask `(A, C)`, ties included; `number` gives k of how many."""
    similarity = ops.stop_gradient(ops.convert_to_tensor(similarity))
    count = ops.sum(ops.cast(mask, "int32"), axis=1)  # (A,)
    k = ops.minimum(number(count), count)
    # A cosine is never below -1: -2 sorts whatever is no negative to the end.
    ranked = -ops.sort(ops.where(mask, -similarity, 2.0), axis=1)  # (A, C), descending
    kth = ops.take_along_axis(ranked, ops.expand_dims(ops.maximum(k - 1, 0), 1), axis=1)  # (A, 1)
    return ops.logical_and(mask, similarity >= kth - TIE[keras.backend.standardize_dtype(similarity.dtype)])
