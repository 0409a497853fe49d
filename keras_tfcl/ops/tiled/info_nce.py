"""InfoNCE in its general form, from sums over tiles: exact, in memory O(N D + block^2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from keras_tfcl.ops.info_nce import AnchorLosses
from keras_tfcl.ops.similarity import at_least_float32, l2_normalize
from keras_tfcl.ops.tiled.from_sums import direct_logits, loss_from_sums
from keras_tfcl.ops.tiled.loops import cross_sums, self_sums
from keras_tfcl.ops.tiled.negatives_form import NegativesForm
from keras_tfcl.ops.tiled.runs import (
    Counts,
    Side,
    count_pairs,
    equal_runs,
    group_numbers,
    in_blocks,
    joint_group_numbers,
    leave_out,
    next_in_run,
    view_partners,
)
from keras_tfcl.ops.tiled.sums import choose_sums
from keras_tfcl.ops.tiled.thresholds import hard_thresholds
from keras_tfcl.ops.tiled.tiles import Kernel, Sums


class _Rows(NamedTuple):
    """One side, sorted by id: unit rows, its `Side`, its counts, and `order`: where each sorted row came from."""

    units: Any
    side: Side
    counts: Counts
    order: Any


class _Problem(NamedTuple):
    form: Any
    negatives: NegativesForm
    decoupled: bool
    block: int  # edge of the tiles


def self_info_nce(
    embeddings: Any,
    labels: Any,
    *,
    form: Any,
    negatives: NegativesForm,
    block: int,
    decoupled: bool = False,
    views: int = 1,
    view: Any = None,
) -> AnchorLosses:
    """The loss of every row against all other rows.

    Args:
        embeddings: `(M, D)`; with views, instance by instance.
        labels: integer `(M,)`.
        form: `TemperatureForm` or `ArctanhForm`.
        negatives: which negatives count.
        block: edge of the tiles.
        decoupled: leave the positives out of the denominator.
        views: V if the rows are V views of each instance. Views of one instance are compared by their distance, exact
            however close they are.
        view: integer `(M,)`: if given, equal views are not compared.

    Returns:
        `AnchorLosses` in the order of the rows.
    """
    x = at_least_float32(embeddings)
    count = tf.shape(x)[0]
    groups = group_numbers(labels)
    order = tf.argsort(groups, stable=True)
    groups = tf.gather(groups, order)
    first, last = equal_runs(groups, groups)
    position = tf.range(count)
    view = None if view is None else tf.gather(view, order)
    if views > 1:
        partners = view_partners(first, position, views)
    else:
        partners = next_in_run(first, last, position, 1 if view is None else 0)
    side = Side(position, first, last, position, partners, tf.ones_like(first, "bool"), view)
    counts = count_pairs((groups, groups), None if view is None else (view, view), position, count)
    rows = _Rows(l2_normalize(_permute(x, order)), side, counts, order)
    return _guard(_losses(_Problem(form, negatives, decoupled, block), rows), x)


def two_view_info_nce(
    first_view: Any, second_view: Any, labels: Any, *, form: Any, negatives: NegativesForm, block: int, decoupled: bool
) -> tuple[AnchorLosses, AnchorLosses]:
    """The losses of two views `(B, D)` of the same instances, each against the other view only."""
    a, b = at_least_float32(first_view), at_least_float32(second_view)
    count = tf.shape(a)[0]
    groups = group_numbers(labels)
    order = tf.argsort(groups, stable=True)
    groups = tf.gather(groups, order)
    first, last = equal_runs(groups, groups)
    position, nowhere = tf.range(count), tf.fill(tf.shape(order), -1)
    side = Side(position, first, last, nowhere, position[:, None], tf.ones_like(first, "bool"))
    counts = count_pairs((groups, groups), None, nowhere, count)
    rows, columns = (_Rows(l2_normalize(_permute(x, order)), side, counts, order) for x in (a, b))
    losses = _losses(_Problem(form, negatives, decoupled, block), rows, columns, both=True)
    return tuple(_guard(one, a, b) for one in losses)


def cross_info_nce(
    anchors: Any,
    candidates: Any,
    anchor_labels: Any,
    candidate_labels: Any,
    *,
    form: Any,
    negatives: NegativesForm,
    block: int,
    decoupled: bool = False,
    self_index: Any = None,
    anchor_views: Any = None,
    candidate_views: Any = None,
    candidate_mask: Any = None,
) -> AnchorLosses:
    """The loss of every anchor against candidates of their own; arguments as `keras_tfcl.ops.contrastive_loss`."""
    x, y = at_least_float32(anchors), at_least_float32(candidates)
    groups = joint_group_numbers(anchor_labels, candidate_labels)
    if candidate_mask is not None:
        groups = groups[0], leave_out(groups, candidate_mask)
    own = tf.fill(tf.shape(groups[0]), -1) if self_index is None else tf.cast(self_index, "int32")
    views = None if anchor_views is None else (tf.cast(anchor_views, "int32"), tf.cast(candidate_views, "int32"))
    counts = count_pairs(groups, views, own, tf.shape(y)[0], candidate_mask)
    rows = _sorted_side(x, groups, own, views, counts)
    swapped = None if views is None else views[::-1]
    columns = _sorted_side(y, groups[::-1], tf.fill(tf.shape(groups[1]), -1), swapped, counts=None)
    if candidate_mask is not None:
        columns = columns._replace(side=columns.side._replace(exists=tf.gather(candidate_mask, columns.order)))
    place = tf.scatter_nd(columns.order[:, None], columns.side.position, tf.shape(columns.order))
    own = tf.gather(own, rows.order)
    own = tf.where(own >= 0, tf.gather(place, tf.maximum(own, 0)), -1)
    partners = next_in_run(rows.side.first, rows.side.last, own, 1 if views is None else 0)
    rows = rows._replace(side=rows.side._replace(own=own, partners=partners))
    (losses,) = _losses(_Problem(form, negatives, decoupled, block), rows, columns, both=False)
    return _guard(losses, x, y)


def _sorted_side(x: Any, groups: Any, own: Any, views: Any, counts: Counts | None) -> _Rows:
    order = tf.argsort(groups[0], stable=True)
    first, last = (tf.gather(run, order) for run in equal_runs(*groups))
    position = tf.range(tf.shape(order)[0])
    view = None if views is None else tf.gather(views[0], order)
    none = tf.zeros([tf.shape(order)[0], 0], "int32")
    side = Side(position, first, last, own, none, tf.ones_like(first, "bool"), view)
    counts = None if counts is None else Counts(*(tf.gather(n, order) for n in counts))
    return _Rows(l2_normalize(_permute(x, order)), side, counts, order)


def _losses(problem: _Problem, rows: _Rows, columns: _Rows | None = None, both: bool = False) -> Any:
    """`AnchorLosses` of the rows against themselves, or a tuple: against the columns, and if `both` the reverse."""
    form, negatives = problem.form, problem.negatives
    rows = _with_thresholds(problem, rows, columns or rows)
    kernel = Kernel(choose_sums(form, negatives.terms[0].power, rows.units.dtype), negatives.terms)
    if columns is None:
        sums = self_sums(kernel, *_in_blocks(problem, rows))
        return _finish(problem, sums, rows, rows)
    if both:
        columns = _with_thresholds(problem, columns, rows)
    (z, side), (other_z, other_side) = _in_blocks(problem, rows), _in_blocks(problem, columns)
    results = cross_sums(kernel, z, other_z, side, other_side, both)
    pairs = ((rows, columns), (columns, rows))
    return tuple(_finish(problem, sums, *pair) for sums, pair in zip(results, pairs, strict=False))


def _with_thresholds(problem: _Problem, rows: _Rows, columns: _Rows) -> _Rows:
    if not problem.negatives.hard:
        return rows
    kept = problem.negatives.kept(rows.counts.negatives)
    cosines = hard_thresholds(rows.units, columns.units, rows.side, columns.side, kept)
    return rows._replace(side=rows.side._replace(threshold=cosines * problem.form.cosine_unit(cosines.dtype)))


def _in_blocks(problem: _Problem, rows: _Rows) -> tuple[Any, Side]:
    count = tf.shape(rows.units)[0] if rows.units.shape[0] is None else rows.units.shape[0]
    block = min(problem.block, count) if isinstance(count, int) else tf.minimum(problem.block, count)
    blocks = -(-count // block)
    side = Side(*(None if x is None else in_blocks(x, block, blocks) for x in rows.side))
    return in_blocks(problem.form.rows(rows.units), block, blocks), side


def _finish(problem: _Problem, sums: Sums, rows: _Rows, columns: _Rows) -> AnchorLosses:
    count = tf.shape(rows.units)[0]
    logs = tf.reshape(tf.transpose(sums.logs, [1, 0, 2]), [tf.shape(sums.logs)[1], -1])[:, :count]
    flat = Sums(logs, tf.reshape(sums.logits, [-1])[:count])
    direct = direct_logits(problem.form, rows.units, columns.units, rows.side.partners)
    losses = loss_from_sums(
        flat, direct, rows.counts, form=problem.form, negatives=problem.negatives, decoupled=problem.decoupled
    )
    return AnchorLosses(*(tf.gather(x, _inverse(rows.order)) for x in losses))


def _guard(losses: AnchorLosses, *embeddings: Any) -> AnchorLosses:
    """NaN or Inf in any embedding makes every loss NaN: a choice of negatives cannot hide it."""
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(x)) for x in embeddings])
    return AnchorLosses(tf.where(finite, losses.loss, float("nan")), losses.valid)


def _inverse(order: Any) -> Any:
    return tf.scatter_nd(order[:, None], tf.range(tf.shape(order)[0]), tf.shape(order))


@tf.custom_gradient
def _permute(x: Any, order: Any) -> Any:
    """`x[order]` for a permutation: its gradient is a gather, too, where that of `tf.gather` is a slow scatter."""
    return tf.gather(x, order), lambda gradient: (tf.gather(gradient, _inverse(order)), None)
