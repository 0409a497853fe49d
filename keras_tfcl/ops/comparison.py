"""Who is compared with whom."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
from keras import ops

from keras_tfcl.ops.candidates import Candidates
from keras_tfcl.ops.masks import Pairs, pair_masks
from keras_tfcl.ops.similarity import cosine_similarity


class Comparison(NamedTuple):
    """A anchors, and what they are compared with.

    Attributes:
        anchors: embeddings `(A, D)`.
        labels: integer `(A,)`.
        views: V, if the anchors are V views of each sample, sample by sample. 1: nothing is known of that.
        view: int32 `(A,)`, the view of each anchor, if only different views are compared. None: all are.
        candidates: `Candidates`. None: the anchors themselves, each without itself.
    """

    anchors: tf.Tensor
    labels: tf.Tensor
    views: int = 1
    view: tf.Tensor | None = None
    candidates: Candidates | None = None

    @property
    def size(self) -> tuple[int | None, int | None]:
        """A and C, None where not known."""
        anchors = self.anchors.shape[0]
        return anchors, anchors if self.candidates is None else self.candidates.embeddings.shape[0]

    def cosines(self, dtype: str = "float64") -> tf.Tensor:
        """All of them at once, `(A, C)`."""
        anchors = ops.cast(self.anchors, dtype)
        if self.candidates is None:  # cast once: two half-precision gradients would be rounded twice
            return cosine_similarity(anchors, anchors)
        return cosine_similarity(anchors, ops.cast(self.candidates.embeddings, dtype))

    def others(self) -> Candidates:
        """The candidates, be they the anchors themselves."""
        if self.candidates is not None:
            return self.candidates
        index = ops.arange(ops.shape(self.anchors)[0], dtype="int32")
        return Candidates(self.anchors, self.labels, index, self.view)

    def pairs(self) -> Pairs:
        """The masks of all pairs, `(A, C)` each."""
        others = self.others()
        return pair_masks(
            self.labels,
            others.labels,
            self_index=others.self_index,
            anchor_views=self.view,
            candidate_views=others.views,
            candidate_mask=others.mask,
        )

    def nan_unless_finite(self, losses: tf.Tensor) -> tf.Tensor:
        """NaN or Inf in any embedding makes every loss NaN: a choice of negatives must not hide it."""
        embeddings = [self.anchors] + ([] if self.candidates is None else [self.candidates.embeddings])
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(x)) for x in embeddings])
        return tf.where(finite, losses, float("nan"))
