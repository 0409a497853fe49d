from __future__ import annotations

from typing import Any

import keras

from keras_tfcl.losses.contrastive import ContrastiveLoss
from keras_tfcl.scaling import Arctanh
from keras_tfcl.typing import Config


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ArctanhInfoNCE(ContrastiveLoss):
    """Computes InfoNCE without a temperature: the logit is `scale * arctanh(s)` of the cosine s.

    Formula, for scale 2: `loss_i = -mean over p of log( w(s_ip) / (sum over j != i of w(s_ij)) )` with
    `w(s) = (1 + s) / (1 - s)`. Unlike with a temperature, the gradient neither vanishes at moderate similarities nor
    remains at perfect alignment. See `ContrastiveLoss` for labels, shapes, numerics and errors, and
    `keras_tfcl.ops.arctanh_logits` for the poles: identical views, duplicates and antipodes give finite losses and
    gradients. With respect to the cosine, the positive's gradient at s = 1 is its limit -Z/2 (scale 2, Z the sum of the
    negatives' w), and a negative's is bounded by `scale / 2 * 10^6`.

    Args:
        scale: a positive number. Defaults to 2, the paper's, which makes the logit the log-odds. For small similarities
            it acts like a temperature of 1 / scale. In this library's benchmarks (examples/results) it was often less
            accurate than 8, the best of three. The third is sqrt(D - 2), at which the logits of random unit vectors in
            D dimensions have variance 1. The mean of exp(logit) over the sphere is infinite from D - 1 on.
        **kwargs: `negatives`, `decoupled`, `cross_view_only`, `block_size`, `precision`, `reduction`, `name`,
            `dtype` of `ContrastiveLoss`.

    Raises:
        ValueError: if `scale` is not a positive finite number; and as `ContrastiveLoss`.

    Example:

    >>> loss = keras_tfcl.ArctanhInfoNCE()
    >>> z = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]], "float32")
    >>> round(float(loss(np.array([0, 0, 1, 1]), z)), 4)
    0.0061

    Reference: Kim and Kim 2025, "Temperature-Free Loss Function for Contrastive Learning", arXiv 2501.17683.
    """

    def __init__(self, scale: float = 2.0, *, name: str = "arctanh_infonce", **kwargs: Any) -> None:
        scaling = Arctanh(scale)
        super().__init__(scaling, name=name, **kwargs)
        self.scale = scaling.scale

    def get_config(self) -> Config:
        config = super().get_config()
        del config["scaling"]
        return {**config, "scale": self.scale}
