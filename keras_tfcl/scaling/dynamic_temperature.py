from __future__ import annotations

import math

import keras
from keras import ops

from keras_tfcl.ops.similarity import at_least_float32
from keras_tfcl.scaling.scaling import Scaling
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class DynamicTemperature(Scaling):
    """A temperature for each pair, from its cosine (DySTreSS): `logit = s / t(s)`.

    Formula: `t(s) = minimum + (maximum - minimum) * (1 + cos(pi * (1 + s))) / 2`: `minimum` at s = 0, `maximum` at
    s = +-1, so that near-duplicates, often false negatives, are pushed less. No gradient flows through t.

    Args:
        minimum: positive number. Defaults to 0.1, the authors' for ImageNet (0.07 for CIFAR).
        maximum: at least `minimum`, at most 4.5 times it: beyond, the logit would no longer grow with s. Defaults to
            0.2.

    Raises:
        ValueError: if an argument is not a positive finite number, or the two are too far apart.

    Example:

    >>> keras_tfcl.DynamicTemperature(0.1, 0.2)(np.array([0.0, 0.5, 1.0])).numpy().round(3)
    array([0.   , 3.333, 5.   ])

    Reference: "Dynamically Scaled Temperature in Self-Supervised Contrastive Learning" 2023, arXiv 2308.01140.
    """

    def __init__(self, minimum: float = 0.1, maximum: float = 0.2) -> None:
        self.minimum = positive_number("minimum", minimum, "The authors use 0.1.")
        self.maximum = positive_number("maximum", maximum, "The authors use 0.2.")
        if not self.minimum <= self.maximum <= 4.5 * self.minimum:
            raise ValueError(
                "`maximum` must lie between minimum and 4.5 * minimum. Received: "
                f"minimum={minimum!r}, maximum={maximum!r}. The authors use 0.1 and 0.2."
            )

    def __call__(self, similarity: Tensor) -> Tensor:
        s = at_least_float32(similarity)
        cosine = ops.cos(math.pi * (1.0 + ops.stop_gradient(s)))
        return s / (self.minimum + (self.maximum - self.minimum) * (1.0 + cosine) / 2.0)

    def get_config(self) -> Config:
        return {"minimum": self.minimum, "maximum": self.maximum}
