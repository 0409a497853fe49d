"""The rule of pairs: what must be known of the embeddings of each side, and which pairs are compared and positive."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Side(NamedTuple):
    """What the rule must know of the embeddings of one side, `(N,)` each, or in blocks `(T, B)`.

    Attributes:
        labels: integer; pairs of equal labels are positives, all others negatives. Or multi-hot `(N, L)`, float: pairs
            that share a label are positives.
        skip: int32; pairs of equal numbers are absent: an embedding with itself, and views that are compared elsewhere.
        views: int32; pairs of equal views are absent. None: views do not matter.
        valid: bool; pairs with an embedding that is not valid are absent. None: all are valid.
        threshold: the cosine from which a negative counts. None: all of them do.
        samples: integer; pairs of equal samples are positives, whatever their labels. None: labels alone decide.
        groups: as `labels`; pairs of the same group are absent unless they are positives. None: there are no groups.
        log_probability: subtracted from the logits of all pairs of the embedding. None: nothing is.
    """

    labels: tf.Tensor
    skip: tf.Tensor
    views: tf.Tensor | None = None
    valid: tf.Tensor | None = None
    threshold: tf.Tensor | None = None
    samples: tf.Tensor | None = None
    groups: tf.Tensor | None = None
    log_probability: tf.Tensor | None = None

    def each(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Side:
        """The same with `function` of every part."""
        return Side(*(None if x is None else function(x) for x in self))


def pairs_of(rows: Side, columns: Side) -> tuple[tf.Tensor, tf.Tensor]:
    """Bool `(R, C)`: the pairs that are not absent, and those that are positives unless they are absent."""
    compared = rows.skip[:, None] != columns.skip[None]
    if rows.views is not None and columns.views is not None:
        compared &= rows.views[:, None] != columns.views[None]
    if rows.valid is not None:
        compared &= rows.valid[:, None]
    if columns.valid is not None:
        compared &= columns.valid[None]
    same = _shared(rows.labels, columns.labels)
    if rows.samples is not None and columns.samples is not None:
        same |= _shared(rows.samples, columns.samples)
    if rows.groups is not None and columns.groups is not None:
        compared &= same | ~_shared(rows.groups, columns.groups)
    return compared, same


def _shared(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Whether labels are equal or, multi-hot, have one in common."""
    if rows.shape.rank == 2:
        return tf.matmul(rows, columns, transpose_b=True) > 0.5
    return rows[:, None] == tf.cast(columns, rows.dtype)[None]  # one of them may be uint64
