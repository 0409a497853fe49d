"""How close positive pairs are."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tfcl.metrics.pairs import batch_pairs
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class Alignment(keras.metrics.Mean):
    """Mean distance of positive pairs, `mean |u - v|^alpha` over pairs of equal labels; 0 when all positives coincide.

    u and v are L2-normalised, so a distance lies in [0, 2]; with `alpha=2` the metric is `2 - 2 * mean cosine`. An
    embedding is not paired with itself. A collapsed encoder has alignment 0 as well: read it with `Uniformity`.

    Pairs are formed within each batch; the result is the mean over the pairs of all batches since the last reset, and
    0 if there was none. Distances come from cosines, so `|u - v|^2` carries an absolute rounding error of about 2e-7.

    Args:
        alpha: exponent of the distance, above 0. Defaults to 2.
        name: name in the logs. Defaults to `"alignment"`.
        dtype: dtype of the running sums. Defaults to float32.

    Call arguments:
        y_true: integer labels `(B,)` or `(B, 1)`: row numbers, or labels for supervised positives.
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype, need not be normalised.
        sample_weight: `(B,)`; a pair weighs the product of its rows' weights.

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

    positives_by_label = True

    def __init__(self, alpha: float = 2.0, name: str = "alignment", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.alpha = positive_number("alpha", alpha, "Use alpha=2.0, the squared distance.")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        pairs = batch_pairs(y_true, y_pred, sample_weight)
        positive = ops.logical_and(pairs.same_label, ops.logical_not(pairs.same_embedding))
        distance = ops.power(pairs.squared_distance, self.alpha / 2)
        super().update_state(ops.ravel(distance), sample_weight=pairs.pair_weights(positive))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}
