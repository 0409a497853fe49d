"""The anchors and candidates of a comparison."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
from keras import ops

from keras_tfcl.ops.candidates import Candidates
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.ops.sides import Side, pairs_of
from keras_tfcl.ops.similarity import at_least_float32, cosine_similarity, units


class Comparison(NamedTuple):
    """A anchors and their candidates.

    Attributes:
        anchors: embeddings `(A, D)`.
        labels: integer `(A,)`.
        views: V, if the anchors are V views of each sample, sample by sample. 1: the views are not known.
        view: int32 `(A,)`, the view of each anchor, if only different views are compared. None: all are.
        candidates: `Candidates`. None: the anchors themselves, each without itself.
        valid: bool `(A,)`: the others are compared with nothing. None: all are valid.
        samples: integer `(A,)`: candidates of the same sample are positives in any case. None: labels decide.
        groups: as `labels`: candidates of the same group are left out unless they are positives. None: none are.
        anchors_per_sample: of the A anchors, which stand sample by sample.
    """

    anchors: tf.Tensor
    labels: tf.Tensor
    views: int = 1
    view: tf.Tensor | None = None
    candidates: Candidates | None = None
    valid: tf.Tensor | None = None
    samples: tf.Tensor | None = None
    groups: tf.Tensor | None = None
    anchors_per_sample: int = 1

    @property
    def size(self) -> tuple[int | None, int | None]:
        """A and C, None where not known."""
        anchors = self.anchors.shape[0]
        return anchors, anchors if self.candidates is None else self.candidates.embeddings.shape[0]

    @property
    def symmetric(self) -> bool:
        """Whether the anchors are the candidates. Two views that are compared only with each other are not."""
        return self.candidates is None and (self.views != 2 or self.view is None)

    def specs(self) -> tuple[tf.TensorSpec, Pairs]:
        """What the cosines and the pairs of some anchors look like."""
        shape = [None, self.size[1]]
        return tf.TensorSpec(shape), Pairs(tf.TensorSpec(shape, "bool"), tf.TensorSpec(shape, "bool"))

    def units(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Unit embeddings of the anchors and of what they are compared with: the same tensor, if they are the same."""
        anchors = units(at_least_float32(self.anchors))
        if self.candidates is None:
            return anchors, anchors
        return anchors, ops.cast(units(at_least_float32(self.candidates.embeddings)), anchors.dtype)

    def cosines(self, dtype: str = "float64") -> tf.Tensor:
        """All of them at once, `(A, C)`."""
        anchors = ops.cast(self.anchors, dtype)
        if self.candidates is None:  # cast once: two half-precision gradients would be rounded twice
            return cosine_similarity(anchors, anchors)
        return cosine_similarity(anchors, ops.cast(self.candidates.embeddings, dtype))

    def sides(self) -> tuple[Side, Side]:
        """What decides about pairs: of the anchors, and of what they are compared with."""
        index = tf.range(tf.shape(self.anchors)[0])
        if self.candidates is None:
            side = Side(self.labels, index, self.view, self.valid, samples=self.samples, groups=self.groups)
            return side, side
        others = self.candidates
        samples = None if others.samples is None else self.samples
        nowhere = tf.fill(tf.shape(index), -1)
        own = nowhere if others.self_index is None else tf.cast(others.self_index, "int32")
        rows = Side(self.labels, own, self.view, self.valid, samples=samples, groups=self.groups)
        columns = Side(
            others.labels,
            tf.range(tf.shape(others.embeddings)[0]),
            None if self.view is None else tf.cast(others.views, "int32"),
            None if others.mask is None else tf.cast(others.mask, "bool"),
            samples=None if samples is None else others.samples,
            groups=None if self.groups is None else others.groups,
            log_probability=others.log_probability,
        )
        return rows, columns

    def pairs(self) -> Pairs:
        """The masks of all pairs, `(A, C)` each."""
        compared, same = pairs_of(*self.sides())
        return Pairs(compared & same, compared & ~same)

    def nan_unless_finite(self, losses: tf.Tensor) -> tf.Tensor:
        """NaN or Inf in embeddings or multi-hot labels makes every loss NaN: a choice of negatives must not hide it."""
        others = None if self.candidates is None else self.candidates.embeddings
        given = [tf.convert_to_tensor(x) for x in (self.anchors, others, self.labels, self.groups) if x is not None]
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(x)) for x in given if x.dtype.is_floating])
        return tf.where(finite, losses, float("nan"))
