from __future__ import annotations

import keras
import tensorflow as tf

from keras_tfcl import evaluation
from keras_tfcl.evaluation.geometry import check_width
from keras_tfcl.typing import Config, DType, TensorLike


@keras.saving.register_keras_serializable(package="keras_tfcl")
class Uniformity(keras.metrics.Mean):
    """Computes how uniformly embeddings fill the sphere, `-log mean exp(-t |u - v|^2)`; larger is more uniform.

    0 means that all embeddings coincide. Embeddings drawn uniformly from the sphere of R^D give
    `2 t - log 0F1(; D/2; t^2)`: for `t=2` this is 3.88 for D = 64 and 3.94 for D = 128. The sign follows Wang and
    Liu; the loss of Wang and Isola is the negative.

    The mean is taken over pairs of embeddings of **different samples**, whatever their labels. Views of one sample are
    not independent and are left out. Pairs are formed within each batch; the kernel is averaged over the pairs of all
    batches since the last reset, and then the logarithm is taken. With shuffled batches this is an unbiased estimate of
    the mean over all pairs. Memory grows linearly with the batch. `keras_tfcl.diagnostics.uniformity_tolerance` visits
    all pairs of a data set. Without any pair the result is 0.

    Args:
        t: width of the kernel, in (0, 20]. Defaults to 2.
        name: name in the logs. Defaults to `"uniformity"`.
        dtype: dtype of the running sums. Defaults to float32.

    Call arguments:
        y_true: labels or anything else, which does not change the result.
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype, need not be normalised.
        sample_weight: `(B,)`; the weight of a pair is the product of its samples' weights.

    Raises:
        ValueError: for a `t` outside (0, 20] (beyond it float32 would underflow), and for inputs of another shape.

    Example:

    >>> metric = Uniformity()
    >>> metric.update_state([0, 1], np.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> float(metric.result())
    4.0

    References: Wang and Isola 2020, arXiv 2005.10242; Wang and Liu 2021, arXiv 2012.09740, eq. 10.
    """

    def __init__(self, t: float = 2.0, name: str = "uniformity", dtype: DType | None = "float32") -> None:
        super().__init__(name=name, dtype=dtype)
        self.t = check_width(t)

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None) -> None:
        super().update_state(*evaluation.gaussian_potential(y_true, y_pred, sample_weight, self.t))

    def result(self) -> tf.Tensor:
        return evaluation.uniformity(super().result())

    def get_config(self) -> Config:
        return {**super().get_config(), "t": self.t}
