"""The candidates that anchors are compared with, if they are more than the batch itself."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
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
        samples: integer `(C,)`, the sample that each candidate is a view of, -1 for one of no anchor's sample; needed
            for `same_label="ignore"` and `unlabelled_class`, which tell an anchor's own views from others.
        groups: integer `(C,)`, for `same_label="ignore"` set by the loss: candidates of an anchor's group that are not
            its positives are left out.
        log_probability: float `(C,)`, the logarithm of the probability that a candidate is sampled. It is subtracted
            from the candidate's logits (log Q correction; Yi et al. 2019). Constant for the gradient. None: no
            correction.
    """

    embeddings: Tensor
    labels: Tensor
    self_index: Tensor | None = None
    views: Tensor | None = None
    mask: Tensor | None = None
    samples: Tensor | None = None
    groups: Tensor | None = None
    log_probability: Tensor | None = None

    def concat(self, others: Candidates) -> Candidates:
        """Appends other candidates, none of which is an anchor. The result has views only if both have them.

        Raises:
            ValueError: if only one of the two has `log_probability`.
        """
        if (self.log_probability is None) != (others.log_probability is None):
            raise ValueError(
                "`log_probability` must be known of all candidates or of none. Received: candidates with it and others "
                "without. Pass Candidates(..., log_probability=...) for both."
            )
        views = mask = samples = log_probability = None
        if self.views is not None and others.views is not None:
            views = ops.concatenate([ops.cast(self.views, "int32"), ops.cast(others.views, "int32")])
        if self.mask is not None or others.mask is not None:
            mask = ops.concatenate([_valid(self), _valid(others)])
        if self.samples is not None or others.samples is not None:
            samples = ops.concatenate([_samples(self), _samples(others)])
        if self.log_probability is not None:
            log_probability = ops.concatenate([self.log_probability, others.log_probability])
        return Candidates(
            ops.concatenate([self.embeddings, ops.cast(others.embeddings, self.embeddings.dtype)]),
            ops.concatenate([self.labels, ops.cast(others.labels, self.labels.dtype)]),
            self.self_index,
            views,
            mask,
            samples,
            log_probability=log_probability,
        )


def constant_log_probability(log_probability: Tensor) -> Tensor:
    """A tensor without gradient, or None; raises ValueError for values that are no logarithms of probabilities."""
    if log_probability is None:
        return None
    log_probability = tf.stop_gradient(tf.convert_to_tensor(log_probability))
    if not log_probability.dtype.is_floating:
        log_probability = tf.cast(log_probability, "float32")
    broken = ~(tf.math.is_finite(log_probability) & (log_probability <= 1e-6))
    if tf.executing_eagerly() and bool(tf.reduce_any(broken)):
        raise ValueError(
            "Log-probabilities of candidates must be finite and at most 0. Received: "
            f"{float(log_probability[broken][0])}, and {int(tf.reduce_sum(tf.cast(broken, 'int32')))} such in all. "
            "Pass numpy.log(probability), with probabilities above 0."
        )
    return log_probability


def _valid(candidates: Candidates) -> Tensor:
    return ops.ones(ops.shape(candidates.embeddings)[:1], "bool") if candidates.mask is None else candidates.mask


def _samples(candidates: Candidates) -> Tensor:
    if candidates.samples is None:
        return -ops.ones(ops.shape(candidates.embeddings)[:1], "int64")
    return ops.cast(candidates.samples, "int64")


def batch_candidates(labels: Tensor, embeddings: Tensor, log_probability: Tensor | None = None) -> Candidates:
    """Returns the embeddings of the batches of all replicas as candidates of this replica's anchors.

    Args:
        labels: integer `(B,)`, of this replica's samples; or multi-hot `(B, L)`.
        embeddings: `(B, V, D)`, of this replica: the anchors themselves, or one key for each of them.
        log_probability: float `(B,)`, of the samples, for all their views. None: no correction.
    """
    views, features = embeddings.shape[1:]
    rows = ops.reshape(at_least_float32(embeddings), (-1, features))  # (B * V, D), sample by sample
    count = ops.shape(rows)[0]
    self_index = replicas.first_row(count) + ops.arange(count, dtype="int32")
    labels = ops.repeat(as_labels(labels, multi_hot=True), views, axis=0)
    rows, labels = replicas.gather(rows, labels)
    if log_probability is not None:
        log_probability = replicas.gather(ops.repeat(log_probability, views))[0]
    index = ops.arange(ops.shape(rows)[0], dtype="int32")
    samples = ops.cast(index // views, "int64")
    return Candidates(rows, labels, self_index, index % views, None, samples, log_probability=log_probability)
