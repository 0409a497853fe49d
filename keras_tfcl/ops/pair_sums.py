"""Losses that are sums over pairs, with no softmax: simple and sigmoid."""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from keras_tfcl.ops.masks import Pairs
from keras_tfcl.typing import Tensor


def simple_losses(similarity: Tensor, pairs: Pairs, weight: float | None = None) -> Tensor:
    """Computes the simple contrastive loss of each anchor: `-mean over P of s_ip + weight * sum over N of s_ij`.

    Args:
        similarity: cosines `(A, C)`.
        pairs: positives P and the negatives N that count, bool `(A, C)` each.
        weight: positive number. Defaults to 1 / M, M the number of the anchor's negatives in `pairs`.

    Returns:
        `(A,)`.

    Example:

    >>> s = np.array([[0.0, 0.9, 0.2, 0.4]])
    >>> positive = np.array([[False, True, False, False]])
    >>> negative = np.array([[False, False, True, True]])
    >>> simple_losses(s, Pairs(positive, negative)).numpy().round(3)
    array([-0.6])

    Reference: Wang and Liu 2021, arXiv 2012.09740, eq. 3.
    """
    repulsion = masked_mean(similarity, pairs.negative) if weight is None else weight * _sum(similarity, pairs.negative)
    return repulsion - masked_mean(similarity, pairs.positive)


def sigmoid_losses(logits: Tensor, pairs: Pairs) -> Tensor:
    """Computes the sigmoid loss of each anchor, in which every pair is classified as positive or negative.

    Formula: `sum over P of softplus(-l_ip) + sum over N of softplus(l_ij)`.

    Args:
        logits: `(A, C)`.
        pairs: positives P and negatives N, bool `(A, C)` each.

    Returns:
        `(A,)`.

    Example:

    >>> pairs = Pairs(np.array([[True, False]]), np.array([[False, True]]))
    >>> sigmoid_losses(np.zeros((1, 2)), pairs).numpy().round(4)  # 2 log 2
    array([1.3863])

    Reference: Zhai et al. 2023 (SigLIP), arXiv 2303.15343.
    """
    return _sum(ops.softplus(-logits), pairs.positive) + _sum(ops.softplus(logits), pairs.negative)


def decoupling_weights(
    positive: Tensor, valid: Tensor, sigma: float, total: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The weights of DCLW: `w_i = 2 - exp(s_i / sigma) / mean(exp(s / sigma))`: hard positives weigh more, mean w = 1.

    Args:
        positive: similarity of each anchor to its positives `(A,)`.
        valid: bool `(A,)`: the anchors in the mean.
        sigma: number of at least 0.01: a smaller one leaves a single anchor.
        total: makes of a sum over these anchors one over the whole batch, where replicas share it. Defaults to none.

    Returns:
        `(A,)`, a constant for the gradient.

    Example:

    >>> decoupling_weights(np.array([0.5, 0.5]), np.array([True, True]), 0.5).numpy()
    array([1., 1.])

    Reference: Yeh et al. 2022, arXiv 2110.06848.
    """
    distance = ops.cast(1.0 - ops.stop_gradient(positive), "float64")  # the exponential is at most 1 up to rounding
    weight = ops.where(valid, ops.exp(-distance / sigma), 0.0)
    count, whole = ops.sum(ops.cast(valid, weight.dtype)), ops.sum(weight)
    if total is not None:
        count, whole = total(count), total(whole)
    return ops.cast(2.0 - ops.divide_no_nan(weight * count, whole), positive.dtype)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of each row over its mask; 0 for a row with nothing in it."""
    return _sum(x, mask) / ops.maximum(ops.sum(ops.cast(mask, x.dtype), axis=1), 1.0)


def _sum(x: Tensor, mask: Tensor) -> Tensor:
    return ops.sum(ops.where(mask, x, 0.0), axis=1)
