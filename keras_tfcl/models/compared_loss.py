"""How candidates reach the loss by way of Keras' own handling of losses: weights, reduction, tracking."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl.ops import replicas
from keras_tfcl.ops.candidates import Candidates


class Comparison:
    """What a batch is compared with, in place of `y_true`; Keras hands it from `compute_loss` to the loss untouched.

    Args:
        labels: integer `(B,)`: equal labels are positives.
        candidates: of the anchors. None: the batch itself, a symmetric problem that a loss solves in half the time.
    """

    def __init__(self, labels: Any, candidates: Candidates | None) -> None:
        self.labels = labels
        self.candidates = candidates


class ComparedLoss(keras.losses.Loss):
    """Calls a loss with a `Comparison`.

    Args:
        loss: a Keras loss; an `EmbeddingLoss` where there are candidates.
    """

    def __init__(self, loss: keras.losses.Loss) -> None:
        super().__init__(name=loss.name, reduction=loss.reduction)
        self.loss = loss

    def __call__(self, y_true: Comparison, y_pred: Any, sample_weight: Any = None) -> Any:
        labels, candidates = y_true.labels, y_true.candidates
        if candidates is None:
            return self.loss(labels, y_pred, sample_weight)
        if replicas.replica_count() > 1:
            labels, y_pred, candidates, sample_weight = _at_least_one_anchor(labels, y_pred, candidates, sample_weight)
        return self.loss.against(labels, y_pred, candidates, sample_weight)


def _at_least_one_anchor(labels: Any, z: Any, candidates: Candidates, sample_weight: Any) -> tuple[Any, ...]:
    """Gives a replica without samples one anchor without a positive, which no loss counts."""
    missing = ops.maximum(1 - ops.shape(z)[0], 0)
    nobody = labels.dtype.min if labels.dtype.min < 0 else labels.dtype.max
    labels = _padded(labels, missing, nobody)
    if candidates.self_index is not None:
        candidates = candidates._replace(self_index=_padded(candidates.self_index, missing * z.shape[1], -1))
    if sample_weight is not None and len(sample_weight.shape) > 0:
        sample_weight = _padded(sample_weight, missing, 0)
    return labels, _padded(z, missing, 0), candidates, sample_weight


def _padded(x: Any, missing: Any, value: Any) -> Any:
    return tf.pad(x, [[0, missing], *[[0, 0]] * (len(x.shape) - 1)], constant_values=tf.cast(value, x.dtype))
