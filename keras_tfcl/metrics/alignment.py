from __future__ import annotations

import keras

from keras_tfcl import evaluation
from keras_tfcl.metrics.of_positives import MeanOfPositives
from keras_tfcl.ops.pair_rule import PairRule
from keras_tfcl.typing import Config, DType, TensorLike
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class Alignment(MeanOfPositives):
    """Computes the mean distance of positive pairs, `mean |u - v|^alpha`.

    u and v are L2-normalised, so a distance lies in [0, 2], and 0 means that all positives coincide. With `alpha=2` the
    metric is `2 - 2 * mean cosine`. An embedding is not paired with itself. A collapsed encoder also has alignment 0,
    so read it together with `Uniformity`.

    Pairs are formed within each batch. The result is the mean over the pairs of all batches since the last reset, and
    0 if there are none. Memory grows linearly with the batch. Distances are computed from cosines, so `|u - v|^2` has
    an absolute rounding error of about 2e-7.

    Args:
        alpha: exponent of the distance, above 0. Defaults to 2.
        name: name in the logs. Defaults to `"alignment"`.
        dtype: dtype of the running sums. Defaults to float32.
        rule: the `rule` of a loss, such as `loss.rule`: the metric then compares what the loss compares (`roles`,
            `cross_view_only`, classes that are ignored or unlabelled). Defaults to None: in a `ContrastiveModel` the
            rule of its loss, elsewhere the rule of a loss without arguments.

    Call arguments:
        y_true: integer labels `(B,)` or `(B, 1)`: indices of the samples, or class labels for supervised positives. Or
            multi-hot labels `(B, L)`.
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype, need not be normalised.
        sample_weight: `(B,)`; the weight of a pair is the product of its samples' weights.

    Raises:
        ValueError: for an `alpha` that is not a positive finite number, and for inputs of another shape.

    Example:

    >>> metric = Alignment()
    >>> metric.update_state([0, 1], np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]))
    >>> float(metric.result())
    1.0

    Reference: Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", arXiv 2005.10242.
    """

    def __init__(
        self, alpha: float = 2.0, name: str = "alignment", dtype: DType | None = "float32", rule: PairRule | None = None
    ) -> None:
        super().__init__(name, dtype, rule)
        self.alpha = positive_number("alpha", alpha, "Use alpha=2.0, the squared distance.")

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None) -> None:
        super().update_state(*evaluation.alignment(y_true, y_pred, sample_weight, self.alpha, self.rule))

    def get_config(self) -> Config:
        return {**super().get_config(), "alpha": self.alpha}
