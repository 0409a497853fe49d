"""How evenly embeddings spread over the sphere."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tfcl.metrics.pairs import batch_pairs
from keras_tfcl.validation import positive_number

# exp(-4 t), the smallest value of the kernel, must stay a normal float32.
LARGEST_T = 20.0


@keras.saving.register_keras_serializable(package="keras_tfcl")
class Uniformity(keras.metrics.Mean):
    """Spread of embeddings over the sphere, `-log mean exp(-t |u - v|^2)`; larger is more uniform.

    0 means that all embeddings coincide. Embeddings drawn uniformly from the sphere of R^D give
    `2 t - log 0F1(; D/2; t^2)`: for `t=2` that is 3.88 for D = 64 and 3.94 for D = 128. The sign is Wang and Liu's;
    Wang and Isola's loss is its negative.

    The mean runs over pairs of embeddings of **different instances** (rows of `y_pred`), whatever their labels: views
    of
    one instance are no independent samples and are left out. Pairs are formed within each batch; the kernel's mean is
    taken over the pairs of all batches since the last reset, then the logarithm. Of shuffled batches that mean is an
    unbiased estimate of the mean over all pairs, and a million embeddings never make 10^12 of them: memory is (B V)^2
    of one batch. `keras_tfcl.diagnostics.uniformity_tolerance` visits all pairs. Without any pair the result is 0.

    Args:
        t: width of the kernel, in (0, 20]. Defaults to 2.
        name: name in the logs. Defaults to `"uniformity"`.
        dtype: dtype of the running sums. Defaults to float32.

    Call arguments:
        y_true: integer labels `(B,)` or `(B, 1)`; they don't change the result.
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype, need not be normalised.
        sample_weight: `(B,)`; a pair weighs the product of its rows' weights.

    Raises:
        ValueError: for a `t` outside (0, 20] (beyond it float32 would underflow), and for inputs of another shape.

    Example:

    >>> metric = Uniformity()
    >>> metric.update_state([0, 1], np.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> float(metric.result())
    4.0

    References: Wang and Isola 2020, arXiv 2005.10242; Wang and Liu 2021, arXiv 2012.09740, eq. 10.
    """

    positives_by_label = False

    def __init__(self, t: float = 2.0, name: str = "uniformity", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.t = positive_number("t", t, "Use t=2.0, as in the paper.")
        if self.t > LARGEST_T:
            raise ValueError(f"`t` must be at most {LARGEST_T:g}. Received: t={t}. Use t=2.0, as in the paper.")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        pairs = batch_pairs(y_true, y_pred, sample_weight)
        kernel = ops.exp(-self.t * pairs.squared_distance)
        weights = pairs.pair_weights(ops.logical_not(pairs.same_instance))
        super().update_state(ops.ravel(kernel), sample_weight=weights)

    def result(self) -> Any:
        mean = super().result()
        return ops.log(1 / ops.where(mean == 0, ops.ones_like(mean), mean))  # the mean is 0 when no pair was seen

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "t": self.t}
