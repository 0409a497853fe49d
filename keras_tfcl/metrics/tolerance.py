from __future__ import annotations

import keras

from keras_tfcl import evaluation
from keras_tfcl.typing import DType, TensorLike


@keras.saving.register_keras_serializable(package="keras_tfcl")
class Tolerance(keras.metrics.Mean):
    """Computes the mean cosine of different samples with the same class label, in [-1, 1].

    A loss that repels everything except the views of one sample lowers it. A collapsed encoder has tolerance 1, so read
    it together with `Uniformity`. Good embeddings have high values of both. The mean is taken over pairs of equal
    labels; the paper's formula, read literally, would be bounded by the share of such pairs, but its table is not.

    Pairs of views of one sample are left out. Pairs are formed within each batch. The result is the mean over the pairs
    of all batches since the last reset, and 0 if there are none. Memory grows linearly with the batch.

    Args:
        name: name in the logs. Defaults to `"tolerance"`.
        dtype: dtype of the running sums. Defaults to float32.

    Call arguments:
        y_true: integer class labels `(B,)` or `(B, 1)`, not one-hot. Indices of the samples give 0, because no two
            samples share one.
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype, need not be normalised.
        sample_weight: `(B,)`; the weight of a pair is the product of its samples' weights.

    Raises:
        ValueError: for labels that are not integers, and for inputs of another shape.

    Example:

    >>> metric = Tolerance()
    >>> metric.update_state([5, 5, 6], np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]))
    >>> float(metric.result())
    1.0

    Reference: Wang and Liu 2021, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740, eq. 11.
    """

    def __init__(self, name: str = "tolerance", dtype: DType | None = "float32") -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None) -> None:
        super().update_state(*evaluation.tolerance(y_true, y_pred, sample_weight))
