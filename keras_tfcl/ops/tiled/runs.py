"""Rows sorted by id: an anchor's positives stand side by side, so most tiles hold nothing but negatives."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class Side(NamedTuple):
    """What a tile must know of each row of one side. `(N,)`, or in blocks `(T, B)`; positions are of sorted rows.

    The candidates of row i with its id are those at positions `first_i <= j < last_i` of the other side.
    """

    position: Any  # int32: own position on the own side
    first: Any  # int32
    last: Any  # int32
    own: Any  # int32: position of the same embedding on the other side, or -1
    partners: Any  # int32 (N, P): positives computed outside the tiles; -1 where there are fewer
    exists: Any  # bool: False for the padding of the last block
    view: Any = None  # integer: pairs of equal views are not compared; None: all are
    threshold: Any = None  # float: similarity from which a negative counts; None: all do


class Counts(NamedTuple):
    """Number of positives and of negatives of each row, int32 `(N,)`."""

    positives: Any
    negatives: Any


def group_numbers(labels: Any) -> Any:
    """Numbers integer labels `(N,)` as int32 in their order, equal labels alike: [7, 3, 7] gives [1, 0, 1]."""
    order = tf.argsort(labels, stable=True)
    ranked = tf.gather(labels, order)
    steps = tf.cast(ranked[1:] != ranked[:-1], "int32")
    numbers = tf.concat([tf.zeros(tf.minimum(tf.shape(labels)[:1], 1), "int32"), tf.cumsum(steps)], axis=0)
    return tf.scatter_nd(order[:, None], numbers, tf.shape(labels))


def joint_group_numbers(anchor_labels: Any, candidate_labels: Any) -> tuple[Any, Any]:
    """`group_numbers` of two sides, numbered together."""
    numbers = group_numbers(tf.concat([anchor_labels, candidate_labels], axis=0))
    count = tf.shape(anchor_labels)[0]
    return numbers[:count], numbers[count:]


def leave_out(numbers: tuple[Any, Any], mask: Any) -> Any:
    """The candidates' numbers of two sides, where the mask is False a further one that no anchor has."""
    return tf.where(mask, numbers[1], tf.shape(numbers[0])[0] + tf.shape(numbers[1])[0])


def equal_runs(anchor_groups: Any, candidate_groups: Any) -> tuple[Any, Any]:
    """For each anchor the run `first, last` of its group in the sorted candidates; both `(A,)` int32."""
    groups = tf.shape(anchor_groups)[0] + tf.shape(candidate_groups)[0] + 1  # one more by `leave_out`
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(candidate_groups), candidate_groups, groups)
    ends = tf.cumsum(sizes)
    last = tf.gather(ends, anchor_groups)
    return last - tf.gather(sizes, anchor_groups), last


def next_in_run(first: Any, last: Any, own: Any, number: int) -> Any:
    """The `number` candidates that follow each row's own place in its run, cyclically: `(A, number)`, -1 if fewer.

    A row that is no candidate itself starts at the run's first.
    """
    size = last - first
    inside = tf.logical_and(own >= first, own < last)
    start = tf.where(inside, own - first, -1)
    others = size - tf.cast(inside, "int32")
    steps = tf.range(1, number + 1)  # (P,)
    place = (start[:, None] + steps) % tf.maximum(size, 1)[:, None]
    return tf.where(steps <= others[:, None], first[:, None] + place, -1)


def view_partners(first: Any, position: Any, views: int) -> Any:
    """The other views of each row's instance, `(A, views - 1)`; an instance's views stand side by side in its run."""
    place = (position - first) % views
    steps = tf.range(1, views)
    return (position - place)[:, None] + (place[:, None] + steps) % views


def count_pairs(
    groups: tuple[Any, Any], views: tuple[Any, Any] | None, own: Any, total: Any, mask: Any = None
) -> Counts:
    """Positives and negatives of each anchor, from `(anchors', candidates')` group numbers and views.

    Args:
        groups: group numbers of both sides.
        views: view numbers of both sides, or None.
        own: position of each anchor among the candidates' groups as given, or -1.
        total: number of candidates.
        mask: bool, False for candidates that do not count; their groups are left out already (`leave_out`).
    """
    same = _run_length(*groups)
    own_place = tf.maximum(own, 0)
    own_group = tf.gather(groups[1], own_place)
    is_candidate = own >= 0
    if mask is not None:  # what is masked out is no candidate, so it is not left out once more
        is_candidate &= tf.gather(mask, own_place)
    own_same = tf.logical_and(is_candidate, own_group == groups[0])
    if views is None:
        excluded, excluded_same = tf.cast(is_candidate, "int32"), tf.cast(own_same, "int32")
    else:
        view_groups = joint_group_numbers(*views)
        if mask is not None:
            view_groups = view_groups[0], leave_out(view_groups, mask)
        width = tf.cast(tf.shape(groups[0])[0] + tf.shape(groups[1])[0] + 1, "int64")
        keys = [tf.cast(g, "int64") * width + tf.cast(v, "int64") for g, v in zip(groups, view_groups, strict=True)]
        other_view = tf.gather(view_groups[1], own_place) != view_groups[0]
        # The own embedding is left out once: as itself where its views differ, else with its view.
        excluded = _run_length(*view_groups) + tf.cast(tf.logical_and(is_candidate, other_view), "int32")
        excluded_same = _run_length(*joint_group_numbers(*keys)) + tf.cast(
            tf.logical_and(own_same, other_view), "int32"
        )
    if mask is not None:
        total = tf.math.count_nonzero(mask, dtype="int32")
    positives = same - excluded_same
    return Counts(positives, total - excluded - positives)


def _run_length(anchor_groups: Any, candidate_groups: Any) -> Any:
    first, last = equal_runs(anchor_groups, candidate_groups)
    return last - first


def in_blocks(values: Any, block: Any, blocks: Any) -> Any:
    """`(N, ...)` to `(T, B, ...)`, the last block padded with zeros (False)."""
    missing = blocks * block - tf.shape(values)[0]
    padded = tf.pad(values, [[0, missing]] + [[0, 0]] * (len(values.shape) - 1))
    return tf.reshape(padded, tf.concat([tf.stack([blocks, block]), tf.shape(values)[1:]], axis=0))
