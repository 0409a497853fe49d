"""InfoNCE in its general form, over all pairs of anchors and candidates at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from keras import ops

from keras_tfcl.ops.logsumexp import masked_logsumexp
from keras_tfcl.ops.masks import Pairs, as_ids, pair_masks
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


def contrastive_loss(
    anchors: Any,
    candidates: Any = None,
    anchor_ids: Any = None,
    candidate_ids: Any = None,
    *,
    scaling: float | str | Callable[[Any], Any] = 0.1,
    negatives: str | ChoosesNegatives = "all",
    decoupled: bool = False,
    self_index: Any = None,
    anchor_views: Any = None,
    candidate_views: Any = None,
) -> Any:
    """The general InfoNCE loss of each anchor against a set of candidates, for training loops of your own.

    Formula, with logits `l_ij` of the cosines, P the positives of anchor i (equal ids, not the same embedding) and N
    its chosen negatives:

        loss_i = -mean over p in P of  log( exp(l_ip) / (sum over P and N of exp(l_ij)) )

    The mean stands outside the logarithm (SupCon); with one positive it is NT-Xent. `decoupled=True` leaves the
    positives out of the sum. An anchor without a positive (or, decoupled, without a negative) gives 0 and no gradient.

    All pairs are computed at once, in float64: `A * C` numbers of 8 bytes, a few times over.

    Args:
        anchors: embeddings `(A, D)`, any float dtype, need not be normalised.
        candidates: embeddings `(C, D)`. Defaults to the anchors themselves, self-pairs excluded.
        anchor_ids: integer `(A,)`: who is whose positive.
        candidate_ids: integer `(C,)`; needed exactly when `candidates` is given.
        scaling: a temperature, `"arctanh"`, or any function of the cosines such as a `keras_tfcl.Scaling`.
        negatives: `"all"` or a `keras_tfcl.Negatives`.
        decoupled: leave the positives out of the denominator (Yeh et al. 2022, arXiv 2110.06848).
        self_index: integer `(A,)`: where each anchor stands among the candidates (-1: nowhere), so that it is not
            compared with itself. Known when `candidates` is left out.
        anchor_views, candidate_views: integer `(A,)`, `(C,)`: if given, only pairs of different views are compared.

    Returns:
        `(A,)` float64, differentiable in anchors and candidates.

    Raises:
        ValueError: for ids that are no integers, or that do not go with the embeddings.

    Example:

    >>> z = np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]], "float32")
    >>> contrastive_loss(z, anchor_ids=[0, 0, 1], scaling=0.5).numpy().round(4)
    array([0.0183, 0.0185, 0.    ])

    References: van den Oord et al. 2018, arXiv 1807.03748; Khosla et al. 2020 (SupCon), arXiv 2004.11362.
    """
    if anchor_ids is None or (candidates is None) != (candidate_ids is None):
        raise ValueError(
            "`contrastive_loss` needs `anchor_ids`, and `candidate_ids` exactly when `candidates` is given. Received: "
            f"anchor_ids={_given(anchor_ids)}, candidates={_given(candidates)}, candidate_ids={_given(candidate_ids)}."
        )
    anchor_ids = as_ids(anchor_ids, "anchor_ids")
    if candidates is None:
        candidates, candidate_ids, candidate_views = anchors, anchor_ids, anchor_views
        self_index = ops.arange(ops.shape(anchors)[0], dtype="int32")
    pairs = pair_masks(
        anchor_ids,
        as_ids(candidate_ids, "candidate_ids"),
        self_index=self_index,
        anchor_views=anchor_views,
        candidate_views=candidate_views,
    )
    return info_nce(anchors, candidates, pairs, scaling=scaling, negatives=negatives, decoupled=decoupled).loss


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


def _given(value: Any) -> str:
    return "not given" if value is None else "given"
