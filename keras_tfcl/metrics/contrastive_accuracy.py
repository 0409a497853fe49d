from __future__ import annotations

import keras

from keras_tfcl import evaluation
from keras_tfcl.metrics.of_positives import MeanOfPositives
from keras_tfcl.ops.pair_rule import PairRule
from keras_tfcl.typing import Config, DType, TensorLike
from keras_tfcl.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ContrastiveAccuracy(MeanOfPositives):
    """Computes the share of anchors that have a positive among their k nearest embeddings by cosine, in [0, 1].

    Every embedding of the batch is an anchor, and all others are its candidates, unless `rule` says otherwise. The task
    becomes harder as the batch grows, so compare only runs of equal batch size. This is the accuracy of the contrastive
    task, not of a classifier (see `KNNEvaluation`). Ties and NaN count against the anchor, so a collapsed encoder has
    accuracy 0.

    Anchors without a positive are left out. The result is the mean over the anchors of all batches since the last
    reset, and 0 if there are none. Memory grows linearly with the batch.

    Args:
        k: number of neighbours, at least 1. Defaults to 1.
        name: name in the logs. Defaults to `"contrastive_accuracy"`.
        dtype: dtype of the running sums. Defaults to float32.
        rule: the `rule` of a loss, such as `loss.rule`: the metric then compares what the loss compares (`roles`,
            `cross_view_only`, classes that are ignored or unlabelled). Defaults to None: in a `ContrastiveModel` the
            rule of its loss, elsewhere the rule of a loss without arguments.

    Call arguments:
        y_true: integer labels `(B,)` or `(B, 1)`: indices of the samples, or class labels for supervised positives. Or
            multi-hot labels `(B, L)`.
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype, need not be normalised.
        sample_weight: `(B,)`, the weight of a sample's embeddings as anchors.

    Raises:
        ValueError: for a `k` that is not an integer of at least 1, and for inputs of another shape.

    Example:

    >>> metric = ContrastiveAccuracy()
    >>> metric.update_state([0, 1], np.array([[[1.0, 0.0], [0.9, 0.1]], [[0.0, 1.0], [0.1, 0.9]]]))
    >>> float(metric.result())
    1.0
    """

    def __init__(
        self,
        k: int = 1,
        name: str = "contrastive_accuracy",
        dtype: DType | None = "float32",
        rule: PairRule | None = None,
    ) -> None:
        super().__init__(name, dtype, rule)
        self.k = positive_integer("k", k, "Use k=1 for the nearest neighbour alone.")

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None) -> None:
        super().update_state(*evaluation.contrastive_accuracy(y_true, y_pred, sample_weight, self.k, self.rule))

    def get_config(self) -> Config:
        return {**super().get_config(), "k": self.k}
