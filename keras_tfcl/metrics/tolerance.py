"""How similar different instances of one class are."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tfcl.metrics.pairs import batch_pairs


@keras.saving.register_keras_serializable(package="keras_tfcl")
class Tolerance(keras.metrics.Mean):
    """Mean cosine of embeddings of different instances that share a label, in [-1, 1].

    A loss that pushes apart everything but the views of one instance lowers it; a collapsed encoder has tolerance 1.
    Read it with `Uniformity`: good embeddings have both. The mean is conditional on equal labels (the paper's formula
    read literally would be bounded by the share of such pairs, which its table is not).

    Pairs of views of one instance are left out. Pairs are formed within each batch; the result is the mean over the
    pairs of all batches since the last reset, and 0 if there was none.

    Args:
        name: name in the logs. Defaults to `"tolerance"`.
        dtype: dtype of the running sums. Defaults to float32.

    Call arguments:
        y_true: integer class labels `(B,)` or `(B, 1)`, not one-hot. Row numbers give 0, since none share a label.
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype, need not be normalised.
        sample_weight: `(B,)`; a pair weighs the product of its rows' weights.

    Raises:
        ValueError: for labels that are no integers, and for inputs of another shape.

    Example:

    >>> metric = Tolerance()
    >>> metric.update_state([5, 5, 6], np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]))
    >>> float(metric.result())
    1.0

    Reference: Wang and Liu 2021, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740, eq. 11.
    """

    positives_by_label = False

    def __init__(self, name: str = "tolerance", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        pairs = batch_pairs(y_true, y_pred, sample_weight)
        same_class = ops.logical_and(pairs.same_label, ops.logical_not(pairs.same_instance))
        super().update_state(ops.ravel(pairs.similarity), sample_weight=pairs.pair_weights(same_class))
