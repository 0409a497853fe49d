"""The reweighted and debiased sum of negatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from keras import ops

from keras_tfcl.ops.logsumexp import masked_logsumexp
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.typing import Tensor


def reweighted_log_sum(
    logits: Tensor, pairs: Pairs, lowest: Tensor, *, beta: float, tau_plus: float, detach: bool = False
) -> Tensor:
    """Computes the log of the sum of negatives, weighted by hardness and corrected for false negatives.

    Formula, over the M negatives j of an anchor with logits l, and its positives p:

        N = max( (sum_j(v_j exp(l_j)) / mean_j(v_j) - tau_plus * M * mean_p(exp(l_p))) / (1 - tau_plus), M exp(lowest) )

    with `v_j = exp(beta * l_j)`. Where the lower bound acts, N has no gradient.

    Args:
        logits: `(A, C)`, float64 for small temperatures.
        pairs: positives and negatives, bool `(A, C)` each.
        lowest: scalar, the logit at cosine -1.
        beta: concentration on hard negatives, >= 0; 0 weights all equally.
        tau_plus: prior probability that a negative is a positive, in [0, 1).
        detach: treat the weights v as constants. The official code does not, so easy negatives are attracted there.

    Returns:
        `(A,)`; 0 for an anchor without negatives.

    Example:

    >>> pairs = keras_tfcl.ops.Pairs(positive=[[True, False, False]], negative=[[False, True, True]])
    >>> logits = tf.constant([[2.0, 1.0, -1.0]])
    >>> keras_tfcl.ops.reweighted_log_sum(logits, pairs, lowest=-2.0, beta=0.0, tau_plus=0.0).numpy().round(4)
    array([1.1269], dtype=float32)

    References: Robinson et al. 2021 (HCL), arXiv 2010.04592; Chuang et al. 2020 (Debiased), arXiv 2007.00224.
    """
    from_log_sums = partial(reweighted_from_log_sums, tau_plus=tau_plus)
    return powered_log_sum(logits, pairs, lowest, reweighting_powers(beta, detach), from_log_sums)


def reweighting_powers(beta: float, detach: bool = False) -> tuple[tuple[float, float], ...]:
    """The sums that reweighting takes, as `keras_tfcl.Negatives.powers`: of `v_j exp(l_j)`, and of `v_j`."""
    if beta == 0:
        return ((1.0, 1.0),)
    return ((1.0 + beta, 1.0), (beta, 0.0)) if detach else ((1.0 + beta, 1.0 + beta), (beta, beta))


def reweighted_from_log_sums(
    log_sums: list[Tensor], log_positive: Tensor, log_count: Tensor, lowest: Tensor, *, tau_plus: float
) -> Tensor:
    """`reweighted_log_sum` from the sums of `reweighting_powers`; see `keras_tfcl.Negatives.from_log_sums`."""
    log_negative = log_sums[0] if len(log_sums) == 1 else log_count + log_sums[0] - log_sums[1]
    if tau_plus == 0:
        return log_negative
    return corrected_log_sum(log_negative, log_positive, log_count, log_count + lowest, tau_plus)


def powered_log_sum(
    logits: Tensor,
    pairs: Pairs,
    lowest: Tensor,
    powers: tuple[tuple[float, float], ...],
    from_log_sums: Callable[[list[Tensor], Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """`from_log_sums` of whole rows of logits `(A, C)`: see `keras_tfcl.Negatives`."""
    fixed = ops.stop_gradient(logits)
    sums = [masked_logsumexp(slope * logits + (power - slope) * fixed, pairs.negative) for power, slope in powers]
    positives, negatives = (ops.maximum(ops.sum(ops.cast(mask, logits.dtype), axis=1), 1.0) for mask in pairs)
    log_positive = masked_logsumexp(logits, pairs.positive) - ops.log(positives)
    return from_log_sums(sums, log_positive, ops.log(negatives), lowest)


def corrected_log_sum(
    log_negative: Tensor, log_positive: Tensor, log_count: Tensor, floor: Tensor, tau_plus: float
) -> Tensor:
    """`log max((N - tau_plus * M * p) / (1 - tau_plus), floor)`, all in logs; no gradient where the floor acts.

    Args:
        log_negative: `(A,)`, log of the negatives' sum N.
        log_positive: `(A,)`, log of the positives' mean exponential p.
        log_count: `(A,)`, log of the number of negatives M.
        floor: `(A,)`, the smallest log-sum M negatives can have.
        tau_plus: prior probability that a negative is a positive, in (0, 1).
    """
    log_false = log_positive + log_count
    shift = ops.stop_gradient(ops.maximum(log_negative, log_positive))
    corrected = (ops.exp(log_negative - shift) - tau_plus * ops.exp(log_false - shift)) / (1.0 - tau_plus)
    # Compared as logs where both are positive: exp(floor - shift) underflows at small temperatures.
    above = ops.logical_and(corrected > 0, ops.log(ops.where(corrected > 0, corrected, 1.0)) + shift > floor)
    return ops.where(above, ops.log(ops.where(above, corrected, 1.0)) + shift, ops.stop_gradient(floor))
