from __future__ import annotations

import math

import keras
from keras import ops

from keras_tfcl.ops.scaling import spread
from keras_tfcl.scaling.scaling import Scaling
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class LearnableTemperature(keras.layers.Layer, Scaling):
    """Divides by a temperature that is trained with the model, as in CLIP: `logit = s * exp(log_scale)`.

    The temperature is `exp(-log_scale)`. The trained variable is `log_scale`; after every update it is kept between 0
    and `log(maximum_scale)`.
    `ContrastiveModel` trains and saves it. A plain Keras model knows nothing of a loss's variables: there it would stay
    at its initial value, so compile a ContrastiveModel.

    Args:
        initial: temperature at the start, at least `1 / maximum_scale` and at most 1. Defaults to 0.07.
        maximum_scale: largest scale, > 1. Defaults to 100, a temperature of 0.01.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is not a positive finite number, or `initial` is out of range.

    Example:

    >>> loss = keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.1))
    >>> round(float(loss.scaling.temperature), 4)
    0.1

    Reference: Radford et al. 2021 (CLIP), arXiv 2103.00020.
    """

    linear = True

    def __init__(self, initial: float = 0.07, maximum_scale: float = 100.0, **kwargs: object) -> None:
        kwargs.setdefault("name", "learnable_temperature")
        super().__init__(**kwargs)
        self.autocast = False  # else cosines (and below, the variable) become half precision under mixed_float16
        self.initial = positive_number("initial", initial, "CLIP starts at 0.07.")
        self.maximum_scale = positive_number("maximum_scale", maximum_scale, "CLIP uses 100.")
        if not 1 / self.maximum_scale <= self.initial <= 1:
            raise ValueError(
                "`initial` must lie between 1 / maximum_scale and 1. Received: "
                f"initial={initial!r}, maximum_scale={maximum_scale!r}. CLIP uses 0.07 and 100."
            )
        self.log_scale = self.add_weight(
            name="log_scale",
            shape=(),
            dtype="float32",
            autocast=False,
            initializer=keras.initializers.Constant(math.log(1 / self.initial)),
            constraint=LogScaleRange(math.log(self.maximum_scale)),
        )
        self.built = True

    @property
    def temperature(self) -> Tensor:
        """The current temperature, a scalar tensor."""
        return ops.exp(-self.log_scale)

    def call(self, similarity: Tensor) -> Tensor:
        return similarity * spread(ops.exp(ops.cast(self.log_scale, similarity.dtype)), similarity)

    def logit_range(self) -> tuple[float, float]:
        return -self.maximum_scale, self.maximum_scale

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "initial": self.initial, "maximum_scale": self.maximum_scale}


@keras.saving.register_keras_serializable(package="keras_tfcl")
class LogScaleRange(keras.constraints.Constraint):
    """Keeps a log scale in [0, maximum] after each update."""

    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def __call__(self, w: Tensor) -> Tensor:
        return ops.clip(w, 0.0, self.maximum)

    def get_config(self) -> Config:
        return {"maximum": self.maximum}
