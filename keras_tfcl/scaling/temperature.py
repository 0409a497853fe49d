from __future__ import annotations

import keras

from keras_tfcl.ops.scaling import temperature_logits
from keras_tfcl.scaling.scaling import Scaling
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class Temperature(Scaling):
    """Divides by a fixed temperature: `logit = s / temperature`.

    A small temperature concentrates the gradient on the nearest negatives, which makes embeddings more uniform and
    less tolerant of semantic neighbours. A large temperature spreads it uniformly (Wang and Liu 2021, arXiv
    2012.09740).

    Args:
        temperature: a positive number, usually between 0.05 and 1. Defaults to 0.1.

    Raises:
        ValueError: if `temperature` is not a positive finite number.

    Example:

    >>> float(keras_tfcl.Temperature(0.5)(0.25))
    0.5
    """

    linear = True

    def __init__(self, temperature: float = 0.1) -> None:
        remedy = "Use a value such as 0.1, or ArctanhInfoNCE, which needs none."
        self.temperature = positive_number("temperature", temperature, remedy)

    def __call__(self, similarity: Tensor) -> Tensor:
        return temperature_logits(similarity, self.temperature)

    def logit_range(self) -> tuple[float, float]:
        return -1 / self.temperature, 1 / self.temperature

    def get_config(self) -> Config:
        return {"temperature": self.temperature}
