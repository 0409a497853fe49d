"""What anchors are compared with, where that is more than the batch itself."""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from keras_tfcl.ops import replicas
from keras_tfcl.ops.masks import as_labels
from keras_tfcl.ops.similarity import at_least_float32
from keras_tfcl.typing import Tensor


class Candidates(NamedTuple):
    """C embeddings that anchors `(B, V, D)` are compared with, A = B * V, instance by instance.

    Attributes:
        embeddings: `(C, D)`, any float dtype, need not be normalised.
        labels: integer `(C,)`, equal to an anchor's id where it is its positive.
        self_index: int32 `(A,)`, where each anchor stands among the candidates (-1: nowhere), so that it is not
            compared with itself. None: no anchor is a candidate.
        views: integer `(C,)`, the view of each candidate, 0 to V - 1; needed for `cross_view_only`.
        mask: bool `(C,)`, the valid mask: False for slots that are empty; they are not compared. None: all are valid.
    """

    embeddings: Tensor
    labels: Tensor
    self_index: Tensor | None = None
    views: Tensor | None = None
    mask: Tensor | None = None

    def concat(self, others: Candidates) -> Candidates:
        """These candidates and others behind them, among which no anchor stands. With views only if both have them."""
        views = mask = None
        if self.views is not None and others.views is not None:
            views = ops.concatenate([ops.cast(self.views, "int32"), ops.cast(others.views, "int32")])
        if self.mask is not None or others.mask is not None:
            mask = ops.concatenate([_valid(self), _valid(others)])
        return Candidates(
            ops.concatenate([self.embeddings, ops.cast(others.embeddings, self.embeddings.dtype)]),
            ops.concatenate([self.labels, ops.cast(others.labels, self.labels.dtype)]),
            self.self_index,
            views,
            mask,
        )


def _valid(candidates: Candidates) -> Tensor:
    return ops.ones(ops.shape(candidates.labels), "bool") if candidates.mask is None else candidates.mask


def batch_candidates(labels: Tensor, embeddings: Tensor) -> Candidates:
    """The embeddings of a batch, of all replicas, as candidates of this replica's part of it.

    Args:
        labels: integer `(B,)`, of this replica's instances.
        embeddings: `(B, V, D)`, of this replica: the anchors themselves, or one key for each of them.
    """
    views, features = embeddings.shape[1:]
    rows = ops.reshape(at_least_float32(embeddings), (-1, features))  # (B * V, D), instance by instance
    count = ops.shape(rows)[0]
    self_index = replicas.first_row(count) + ops.arange(count, dtype="int32")
    rows, labels = replicas.gather(rows, ops.repeat(as_labels(labels), views))
    return Candidates(rows, labels, self_index, ops.arange(ops.shape(rows)[0], dtype="int32") % views)
