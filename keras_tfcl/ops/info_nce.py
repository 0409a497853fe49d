"""InfoNCE in its general form: a formula of four numbers for each anchor, which are reduced from its pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import tensorflow as tf
from keras import ops

from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.logsumexp import masked_logsumexp
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.ops.pairwise import (
    NOTHING,
    Count,
    Logits,
    LogSumExp,
    Numbers,
    Sum,
    logits_by_number,
    map_rows,
    reduce_pairs,
)
from keras_tfcl.typing import Tensor


class ChoosesNegatives(Protocol):
    """What `negatives=` needs: see `keras_tfcl.Negatives`."""

    def keep(self, similarity: Tensor, mask: Tensor) -> Tensor: ...

    def log_sum(self, logits: Tensor, pairs: Pairs, lowest: Tensor) -> Tensor: ...


class StreamsNegatives(ChoosesNegatives, Protocol):
    """What it needs besides to be computed in tiles."""

    allows: Callable[[Tensor], Tensor] | None
    hardest: Callable[[Tensor], Tensor] | None
    powers: tuple[tuple[float, float], ...]
    weighs: bool

    def from_log_sums(
        self, log_sums: list[Tensor], log_positive: Tensor, log_count: Tensor, lowest: Tensor
    ) -> Tensor: ...


class AnchorLosses(NamedTuple):
    """The loss of each anchor `(A,)`, and bool `(A,)`: whether it has one (anchors without a positive do not)."""

    loss: Tensor
    valid: Tensor


class Statistics(NamedTuple):
    """What the loss of an anchor is made of, `(A,)` each; logs of nothing are `NOTHING`.

    The denominator is the sum of `rest` and `known`: of the negatives and the positives, or, where positives are known
    with more digits than others, of these and all others.

    Attributes:
        rest, known: log-sums.
        mean_positive: mean logit of the positives.
        positives: their number.
    """

    rest: Tensor
    known: Tensor
    mean_positive: Tensor
    positives: Tensor

    def losses(self, decoupled: bool = False, weight: float | Tensor = 1.0) -> AnchorLosses:
        """InfoNCE, or `rest - weight * mean_positive` if decoupled (`rest` must then be the negatives')."""
        valid = self.positives > 0
        if decoupled:
            valid &= (self.rest > NOTHING / 2) | tf.math.is_nan(self.rest)
            loss = tf.where(valid, self.rest, 0.0) - weight * self.mean_positive
        else:
            # With one positive the last two cancel exactly: a small loss has as many digits as a large one.
            known = tf.where(valid, self.known, 0.0)
            loss = tf.nn.softplus(self.rest - known) + (known - self.mean_positive)
        return AnchorLosses(tf.where(valid, loss, 0.0), valid)


def statistics(
    comparison: Comparison,
    *,
    scaling: float | str | Callable[[Tensor], Tensor],
    negatives: str | ChoosesNegatives = "all",
    decoupled: bool = False,
    block: int | None = None,
    precision: str | None = None,
) -> Statistics:
    """The statistics of all anchors.

    Args:
        comparison: who is compared with whom.
        scaling: a temperature, `"arctanh"`, or a function of cosines.
        negatives: `"all"` or a `keras_tfcl.Negatives`.
        decoupled: whether they are for a decoupled loss.
        block: edge of the tiles. None: all pairs at once, in float64.
        precision: of the tiles' matrix products: None, `"highest"` or `"input"`.
    """
    logits = Logits(scaling, holder=negatives)
    log_probability = None if comparison.candidates is None else comparison.candidates.log_probability
    if log_probability is not None and getattr(negatives, "weighs", False):
        raise ValueError(
            "The log Q correction changes how much a negative counts, and so do weights of negatives. Received: "
            f"log_probability with negatives={type(negatives).__name__}. Use negatives='all' or HardNegatives."
        )
    chosen = None if isinstance(negatives, str) else negatives
    whole = chosen is not None and getattr(chosen, "whole_rows", True)
    result: Iterable[Tensor]
    if (
        block is None
        or not logits.streams
        or (chosen is not None and whole and not _streams(chosen, logits, comparison))
    ):
        # float64: at a temperature of 0.001, or beside the pole of arctanh, float32 cosines carry too few digits. These
        # products are small beside an encoder's; half precision would be lost entirely.
        result = _of_rows(comparison.cosines(), comparison.pairs(), logits, chosen, log_probability)
    elif whole:
        rows = lambda cosines, pairs, logits: list(_of_rows(cosines, pairs, logits, chosen, log_probability))  # noqa: E731
        parts = map_rows(rows, comparison, logits, outputs=4, block=block, precision=precision)
        result = [tf.cast(x, "float64") for x in parts]
    else:
        result = _streamed(comparison, logits, chosen, decoupled, block, precision)  # type: ignore[arg-type]  # not `whole_rows`
    return Statistics(*result)


def _streams(negatives: ChoosesNegatives, logits: Logits, comparison: Comparison) -> bool:
    """Whether all that a choice of negatives is differentiated by is known."""

    def alone(cosines: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        return negatives.keep(cosines, pairs.negative), negatives.log_sum(cosines, pairs, cosines[0, 0])

    return logits.explains(alone, *comparison.specs())


def _of_rows(
    cosines: Tensor, pairs: Pairs, logits: Logits, negatives: ChoosesNegatives | None, log_probability: Tensor | None
) -> Statistics:
    """From whole rows of cosines `(A, C)`."""
    # Absent pairs, such as an embedding with itself, are kept from the poles of a scaling.
    compared = tf.where(pairs.positive | pairs.negative, cosines, 0.0)
    scaled = logits(logits.with_margin(compared, pairs.positive))
    if log_probability is not None:
        scaled -= tf.cast(log_probability, scaled.dtype)
    if negatives is None:
        log_negative = masked_logsumexp(scaled, pairs.negative)
    else:
        kept = logits.run(negatives.keep, tf.stop_gradient(cosines), pairs.negative)
        pairs = Pairs(pairs.positive, pairs.negative & kept)
        log_negative = logits.run(negatives.log_sum, scaled, pairs, logits(tf.constant(-1.0, cosines.dtype)))
    positives = tf.reduce_sum(tf.cast(pairs.positive, scaled.dtype), 1)
    some = positives > 0, tf.reduce_any(pairs.negative, 1)
    return Statistics(
        tf.where(some[1], log_negative, NOTHING),
        tf.where(some[0], masked_logsumexp(scaled, pairs.positive), NOTHING),
        tf.reduce_sum(tf.where(pairs.positive, scaled, 0.0), 1) / tf.maximum(positives, 1.0),
        positives,
    )


def _streamed(
    comparison: Comparison,
    logits: Logits,
    negatives: StreamsNegatives | None,
    decoupled: bool,
    block: int,
    precision: str | None,
) -> Statistics:
    """From tiles."""
    powers = ((1.0, 1.0),) if negatives is None else negatives.powers
    weighs = negatives is not None and negatives.weighs
    views_known = comparison.candidates is None and comparison.views > 1
    reducers = [Sum("positive"), Count("positive")]
    # One exponential serves positives and negatives alike if the known views outside the tiles keep the digits.
    together = views_known and not decoupled and not weighs
    if together:
        reducers += [LogSumExp("all")]
    else:
        reducers += [LogSumExp("positive"), *(LogSumExp("negative", *power) for power in powers)]
        reducers += [Count("negative")] if weighs else []
    if not views_known:
        reducers += [Numbers("positive")]
    choice = {} if negatives is None else {"allows": negatives.allows, "hardest": negatives.hardest}
    reduced = reduce_pairs(comparison, reducers, logits, block=block, precision=precision, **choice)
    total, count, *logs = reduced.joined()
    if together:
        two = comparison.views == 2
        known = tf.squeeze(reduced.known, 1) if two else tf.reduce_logsumexp(reduced.known, 1)
        return Statistics(reduced.results[2], known, total / tf.maximum(count, 1.0), count)
    known = logs[0]
    if not views_known:  # where there is one positive, it is compared once more, by distance
        only = logits_by_number(reduced, logits, tf.cast(tf.where(count == 1, logs[-1], 0.0), "int32"))
        total, known = tf.where(count == 1, only, total), tf.where(count == 1, only, known)
    count_or_one = tf.maximum(count, 1.0)
    rest = logs[1]
    if negatives is not None and weighs:
        number = tf.maximum(logs[1 + len(powers)], 1.0)
        lowest = logits(tf.constant(-1.0, "float64"))
        weighed = negatives.from_log_sums(
            logs[1 : 1 + len(powers)], known - tf.math.log(count_or_one), tf.math.log(number), lowest
        )
        rest = tf.where(rest > NOTHING / 2, weighed, NOTHING)
    return Statistics(rest, known, total / count_or_one, count)


def info_nce_from_logits(
    logits: Tensor, pairs: Pairs, *, log_negatives: Tensor | None = None, decoupled: bool = False
) -> AnchorLosses:
    """Computes the loss of each anchor from its logits `(A, C)`.

    Pairs that are neither positive nor negative are left out. `log_negatives`, `(A,)`, replaces the logsumexp of the
    negatives' logits where they are weighted.

    Example:

    >>> pairs = Pairs(np.array([[True, False]]), np.array([[False, True]]))
    >>> info_nce_from_logits(np.zeros((1, 2)), pairs).loss.numpy().round(4)  # log 2
    array([0.6931])
    """
    count = ops.sum(ops.cast(pairs.positive, logits.dtype), axis=1)  # (A,)
    if log_negatives is None:
        log_negatives = masked_logsumexp(logits, pairs.negative)
    rest = ops.where(ops.any(pairs.negative, axis=1), log_negatives, NOTHING)
    known = ops.where(count > 0, masked_logsumexp(logits, pairs.positive), NOTHING)
    mean = ops.sum(ops.where(pairs.positive, logits, 0.0), axis=1) / ops.maximum(count, 1.0)
    return Statistics(rest, known, mean, count).losses(decoupled)
