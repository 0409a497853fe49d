"""How often a positive is among the nearest embeddings."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tfcl.metrics.pairs import batch_pairs
from keras_tfcl.ops.hard import TIE
from keras_tfcl.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ContrastiveAccuracy(keras.metrics.Mean):
    """Share of anchors that have a positive among their k nearest other embeddings by cosine, in [0, 1].

    Every embedding of the batch is an anchor; its candidates are all others of the batch, so the task gets harder with
    the batch: compare runs of equal batch size only. It is the accuracy of the contrastive task, not of a classifier
    (see `KNNEvaluation`). Ties count against the anchor, so a collapsed encoder has accuracy 0, not 1; so does NaN.

    Anchors without a positive don't count. The result is the mean over the anchors of all batches since the last
    reset, and 0 if there was none.

    Args:
        k: number of neighbours, at least 1. Defaults to 1.
        name: name in the logs. Defaults to `"contrastive_accuracy"`.
        dtype: dtype of the running sums. Defaults to float32.

    Call arguments:
        y_true: integer labels `(B,)` or `(B, 1)`: row numbers, or labels for supervised positives.
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype, need not be normalised.
        sample_weight: `(B,)`, the weight of a row as anchor.

    Raises:
        ValueError: for a `k` that is not an integer of at least 1, and for inputs of another shape.

    Example:

    >>> metric = ContrastiveAccuracy()
    >>> metric.update_state([0, 1], np.array([[[1.0, 0.0], [0.9, 0.1]], [[0.0, 1.0], [0.1, 0.9]]]))
    >>> float(metric.result())
    1.0
    """

    positives_by_label = True

    def __init__(self, k: int = 1, name: str = "contrastive_accuracy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.k = positive_integer("k", k, "Use k=1 for the nearest neighbour alone.")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        pairs = batch_pairs(y_true, y_pred, sample_weight)
        similarity = pairs.similarity
        positive = ops.logical_and(pairs.same_label, ops.logical_not(pairs.same_embedding))
        # A cosine is never below -1: -2 loses against every positive.
        best = ops.max(ops.where(positive, similarity, -2 * ops.ones_like(similarity)), axis=1, keepdims=True)
        tie = TIE[keras.backend.standardize_dtype(similarity.dtype)]
        as_near = ops.logical_not(similarity < best - tie)  # not `>=`: NaN is as near as any
        ahead = ops.sum(ops.cast(ops.logical_and(as_near, ops.logical_not(pairs.same_label)), "int32"), axis=1)  # (N,)
        has_positive = ops.cast(ops.any(positive, axis=1), similarity.dtype)
        super().update_state(ahead < self.k, sample_weight=pairs.weight * has_positive)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}
