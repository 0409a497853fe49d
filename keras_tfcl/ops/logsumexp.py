"""Log-sum-exp over a mask, with finite gradients."""

from __future__ import annotations

from keras import ops

from keras_tfcl.typing import Tensor


def masked_logsumexp(logits: Tensor, mask: Tensor) -> Tensor:
    """`log(sum over the mask of exp(logits))` along each row; 0, and no gradient, for a row with nothing in its mask.

    Excluded logits are replaced before the exponential, not after it: a gradient through exp of -inf, or through a row
    of nothing but -inf, would be NaN.

    Args:
        logits: `(A, C)`.
        mask: bool `(A, C)`.

    Returns:
        `(A,)`.

    Example:

    >>> masked_logsumexp(np.zeros((2, 3)), np.array([[True, True, False], [False, False, False]])).numpy().round(4)
    array([0.6931, 0.    ])
    """
    logits = ops.convert_to_tensor(logits)
    lowest = ops.min(logits, axis=1, keepdims=True)
    shift = ops.stop_gradient(ops.max(ops.where(mask, logits, lowest), axis=1, keepdims=True))  # (A, 1)
    exps = ops.where(mask, ops.exp(ops.where(mask, logits - shift, 0.0)), 0.0)
    some = ops.any(mask, axis=1)
    total = ops.where(some, ops.sum(exps, axis=1), 1.0)
    return ops.where(some, ops.log(total) + ops.squeeze(shift, axis=1), 0.0)
