from __future__ import annotations

import math

import keras

from keras_tfcl.ops.scaling import POLE_SHIFT, arctanh_exp, arctanh_logits
from keras_tfcl.scaling.scaling import Scaling
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class Arctanh(Scaling):
    """Temperature-free scaling: `logit = scale * arctanh(s)`; see `keras_tfcl.ops.arctanh_logits` for the poles.

    While similarities are small the logit has slope `scale`, as a temperature of `1 / scale` would give; near s = 1 the
    slope grows as `scale / (1 - s^2)`, so that close pairs are told apart without a small temperature.

    Args:
        scale: positive number. Defaults to 2, which makes the logit the log-odds of the probability (1 + s) / 2.

    Raises:
        ValueError: if `scale` is not a positive finite number.

    Example:

    >>> round(float(keras_tfcl.Arctanh()(0.5)), 3)
    1.099

    Reference: Kim and Kim 2025, arXiv 2501.17683.
    """

    def __init__(self, scale: float = 2.0) -> None:
        self.scale = positive_number("scale", scale, "The loss of Kim and Kim (2025) has scale=2.")

    def __call__(self, similarity: Tensor) -> Tensor:
        return arctanh_logits(similarity, self.scale)

    def exp(self, similarity: Tensor, power: float, shift: float) -> Tensor:
        return arctanh_exp(similarity, self.scale * power, shift)

    def logit_range(self) -> tuple[float, float]:
        highest = self.scale / 2 * math.log(2 / POLE_SHIFT + 1)
        return -highest, highest

    def get_config(self) -> Config:
        return {"scale": self.scale}
