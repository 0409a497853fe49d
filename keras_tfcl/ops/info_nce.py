"""InfoNCE in its general form, over all pairs of anchors and candidates at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from keras import ops

from keras_tfcl.ops.logsumexp import masked_logsumexp
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.ops.scaling import arctanh_logits, temperature_logits
from keras_tfcl.ops.similarity import cosine_similarity
from keras_tfcl.validation import positive_number


class ChoosesNegatives(Protocol):
    """What `negatives=` needs: see `keras_tfcl.Negatives`."""

    def keep(self, similarity: Any, mask: Any) -> Any: ...

    def log_sum(self, logits: Any, pairs: Pairs, lowest: Any) -> Any: ...


class AnchorLosses(NamedTuple):
    """The loss of each anchor `(A,)`, and bool `(A,)`: whether it has one (anchors without a positive do not)."""

    loss: Any
    valid: Any


def info_nce(
    anchors: Any,
    candidates: Any,
    pairs: Pairs,
    *,
    scaling: float | str | Callable[[Any], Any],
    negatives: str | ChoosesNegatives = "all",
    decoupled: bool = False,
) -> AnchorLosses:
    """`contrastive_loss` for pairs that are already split into positives and negatives.

    NaN or Inf in any embedding makes every loss NaN: a choice of negatives cannot hide it.
    """
    # float64: at a temperature of 0.001, or beside the pole of arctanh, float32 cosines carry too few digits. These
    # products are small beside an encoder's; half precision would be lost entirely.
    among_themselves = candidates is anchors  # cast once: two half-precision gradients would be rounded twice
    anchors = ops.cast(anchors, "float64")
    candidates = anchors if among_themselves else ops.cast(candidates, "float64")
    similarity = cosine_similarity(anchors, candidates)  # (A, C)
    logits = scale_similarity(similarity, scaling)
    if negatives == "all":
        losses = info_nce_from_logits(logits, pairs, decoupled=decoupled)
    else:
        pairs = Pairs(pairs.positive, negatives.keep(ops.stop_gradient(similarity), pairs.negative))
        lowest = scale_similarity(ops.cast(-1.0, "float64"), scaling)
        log_negatives = negatives.log_sum(logits, pairs, lowest)
        losses = info_nce_from_logits(logits, pairs, log_negatives=log_negatives, decoupled=decoupled)
    finite = ops.logical_and(ops.all(ops.isfinite(anchors)), ops.all(ops.isfinite(candidates)))
    return AnchorLosses(ops.where(finite, losses.loss, float("nan")), losses.valid)


def info_nce_from_logits(
    logits: Any, pairs: Pairs, *, log_negatives: Any = None, decoupled: bool = False
) -> AnchorLosses:
    """The loss of each anchor from its logits `(A, C)`; pairs that are neither positive nor negative are left out.

    `log_negatives`, `(A,)`, replaces the logsumexp of the negatives' logits where they are weighted.

    Example:

    >>> pairs = Pairs(np.array([[True, False]]), np.array([[False, True]]))
    >>> info_nce_from_logits(np.zeros((1, 2)), pairs).loss.numpy().round(4)  # log 2
    array([0.6931])
    """
    count = ops.sum(ops.cast(pairs.positive, logits.dtype), axis=1)  # (A,)
    has_negative = ops.any(pairs.negative, axis=1)
    if log_negatives is None:
        log_negatives = masked_logsumexp(logits, pairs.negative)
    if decoupled:
        log_denominator, valid = log_negatives, ops.logical_and(count > 0, has_negative)
    else:
        both = ops.stack([masked_logsumexp(logits, pairs.positive), log_negatives], axis=1)  # (A, 2)
        log_denominator = masked_logsumexp(both, ops.stack([count > 0, has_negative], axis=1))
        valid = count > 0
    positive_sum = ops.sum(ops.where(pairs.positive, logits, 0.0), axis=1)
    loss = log_denominator - positive_sum / ops.maximum(count, 1.0)
    return AnchorLosses(ops.where(valid, loss, 0.0), valid)


def scale_similarity(similarity: Any, scaling: float | str | Callable[[Any], Any]) -> Any:
    """Cosines to logits by a temperature, `"arctanh"`, or a function."""
    if callable(scaling):
        return scaling(similarity)
    if scaling == "arctanh":
        return arctanh_logits(similarity)
    return temperature_logits(similarity, positive_number("scaling", scaling, "Or pass 'arctanh'."))
