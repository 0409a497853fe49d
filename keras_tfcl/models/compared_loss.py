"""Passes candidates to the loss through Keras' own handling of losses: weights, reduction, tracking."""

from __future__ import annotations

import keras

from keras_tfcl.models.uneven_replicas import at_least_one_anchor
from keras_tfcl.ops import replicas
from keras_tfcl.ops.candidates import Candidates
from keras_tfcl.typing import Tensor


class LabelsAndCandidates:
    """The labels and candidates of a batch, in place of `y_true`; Keras passes it to the loss unchanged.

    Args:
        labels: integer `(B,)`: equal labels are positives.
        candidates: of the anchors. None: the batch itself, a symmetric problem that a loss solves in half the time.
    """

    def __init__(self, labels: Tensor, candidates: Candidates | None) -> None:
        self.labels = labels
        self.candidates = candidates


class ComparedLoss(keras.losses.Loss):
    """Calls a loss with a `LabelsAndCandidates`.

    Args:
        loss: a Keras loss; an `EmbeddingLoss` where there are candidates.
    """

    def __init__(self, loss: keras.losses.Loss) -> None:
        super().__init__(name=loss.name, reduction=loss.reduction)
        self.loss = loss

    def __call__(self, y_true: LabelsAndCandidates, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        labels, candidates = y_true.labels, y_true.candidates
        if candidates is None:
            return self.loss(labels, y_pred, sample_weight)
        if replicas.replica_count() > 1:
            labels, y_pred, candidates, sample_weight = at_least_one_anchor(labels, y_pred, candidates, sample_weight)
        return self.loss.against(labels, y_pred, candidates, sample_weight)
