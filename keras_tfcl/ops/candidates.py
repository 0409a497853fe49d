"""The candidates that anchors are compared with, if they are more than the batch itself."""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from keras_tfcl.ops import replicas
from keras_tfcl.ops.masks import as_labels
from keras_tfcl.ops.similarity import at_least_float32
from keras_tfcl.typing import Tensor


class Candidates(NamedTuple):
    """C embeddings that anchors `(B, V, D)` are compared with, A = B * V, sample by sample.

    Attributes:
        embeddings: `(C, D)`, any float dtype, need not be normalised.
        labels: integer `(C,)`; a candidate is a positive of the anchors with its label.
        self_index: int32 `(A,)`, the index of each anchor among the candidates (-1: it is not one of them), so that it
            is not compared with itself. None: no anchor is a candidate.
        views: integer `(C,)`, the view of each candidate, 0 to V - 1; needed for `cross_view_only`.
        mask: bool `(C,)`, the valid mask: False for empty slots, which are not compared. None: all are valid.
    """

    embeddings: Tensor
    labels: Tensor
    self_index: Tensor | None = None
    views: Tensor | None = None
    mask: Tensor | None = None

    def concat(self, others: Candidates) -> Candidates:
        """Appends other candidates, none of which is an anchor. The result has views only if both have them."""
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
    """Returns the embeddings of the batches of all replicas as candidates of this replica's anchors.

    Args:
        labels: integer `(B,)`, of this replica's samples.
        embeddings: `(B, V, D)`, of this replica: the anchors themselves, or one key for each of them.
    """
    views, features = embeddings.shape[1:]
    rows = ops.reshape(at_least_float32(embeddings), (-1, features))  # (B * V, D), sample by sample
    count = ops.shape(rows)[0]
    self_index = replicas.first_row(count) + ops.arange(count, dtype="int32")
    rows, labels = replicas.gather(rows, ops.repeat(as_labels(labels), views))
    return Candidates(rows, labels, self_index, ops.arange(ops.shape(rows)[0], dtype="int32") % views)
