"""From a row's log-sums to its loss: plain autodiff on vectors of N numbers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_tfcl.ops.info_nce import AnchorLosses
from keras_tfcl.ops.reweighted import corrected_log_sum
from keras_tfcl.ops.tiled.negatives_form import NegativesForm
from keras_tfcl.ops.tiled.runs import Counts
from keras_tfcl.ops.tiled.sums import NOTHING
from keras_tfcl.ops.tiled.tiles import Sums


def direct_logits(form: Any, units: Any, other_units: Any, partners: Any) -> list[Any]:
    """Relative logits `(N,)` of each row and each of its partners `(N, P)`, by distance; `NOTHING` without partner.

    With `d = |a - b|^2 / 2 = 1 - s` the pole at s = 1 has no cancellation: near-identical views keep full precision.
    """
    logits = []
    for partner in tf.unstack(partners, axis=1):
        other = tf.gather(other_units, tf.maximum(partner, 0))  # (N, D)
        # A zero vector has cosine 0, not the 1/2 that its distance to a unit vector tells.
        lengths = tf.reduce_any(units != 0, 1), tf.reduce_any(other != 0, 1)
        missing = 1.0 - (tf.cast(lengths[0], units.dtype) + tf.cast(lengths[1], units.dtype)) / 2.0
        half_squared = tf.reduce_sum(tf.square(units - other), 1) / 2.0 + missing
        logits.append(tf.where(partner >= 0, form.from_distance(half_squared), NOTHING))
    return logits


def loss_from_sums(
    sums: Sums, direct: list[Any], counts: Counts, *, form: Any, negatives: NegativesForm, decoupled: bool
) -> AnchorLosses:
    """The loss of each anchor.

    Formula, with P the log-sum of the positives, N that of the negatives: `softplus(N - P) + P - mean of their logits`:
    with one positive the last two cancel exactly, so that a small loss has as many digits as a large one.

    Args:
        sums: `logs` `(K + 1, N)` and `logits` `(N,)` of the tiles.
        direct: logits `(N,)` of the positives outside the tiles, `NOTHING` where there is none.
        counts: of positives and negatives.
        form, negatives, decoupled: as for `self_info_nce`.
    """
    dtype = sums.logits.dtype
    positives, some_negative = tf.cast(tf.maximum(counts.positives, 1), dtype), counts.negatives > 0
    log_positive = tf.reduce_logsumexp(tf.stack([*direct, sums.logs[-1]]), 0)
    positive_logits = sums.logits + tf.add_n([tf.where(x > NOTHING / 2, x, 0.0) for x in [*direct, 0.0 * sums.logits]])
    mean_positive = positive_logits / positives

    log_negative = sums.logs[0]
    log_count = tf.math.log(tf.cast(tf.maximum(counts.negatives, 1), dtype))
    if len(negatives.terms) == 2:
        log_negative = log_count + log_negative - sums.logs[1]
    if negatives.tau_plus > 0:
        log_mean = log_positive - tf.math.log(positives)
        floor = log_count + form.lowest(dtype)
        log_negative = corrected_log_sum(log_negative, log_mean, log_count, floor, negatives.tau_plus)
    log_negative = tf.where(some_negative, log_negative, NOTHING)

    valid = counts.positives > 0
    if decoupled:
        valid = tf.logical_and(valid, some_negative)
        loss = log_negative - mean_positive
    else:
        loss = tf.nn.softplus(log_negative - log_positive) + (log_positive - mean_positive)
    return AnchorLosses(tf.where(valid, loss, 0.0), valid)
