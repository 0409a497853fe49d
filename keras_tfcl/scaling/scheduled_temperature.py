from __future__ import annotations

import keras
from keras import ops

from keras_tfcl.scaling.scaling import Scaling
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ScheduledTemperature(keras.layers.Layer, Scaling):
    """Divides by a temperature that can be set during training: `logit = s / temperature`.

    The temperature is a variable that no optimizer trains. `keras_tfcl.callbacks.TemperatureSchedule` sets it at the
    start of each epoch. You can also set it with `scaling.temperature.assign(0.2)`. Nothing is compiled again.
    `ContrastiveModel` saves it with its weights.

    Args:
        initial: a positive number, the temperature until it is set. Defaults to 0.1.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if `initial` is not a positive finite number.

    Example:

    >>> scaling = keras_tfcl.ScheduledTemperature(0.5)
    >>> scaling.temperature.assign(0.25).numpy().item()
    0.25
    >>> float(scaling(np.array(0.5)))
    2.0
    """

    linear = True

    def __init__(self, initial: float = 0.1, **kwargs: object) -> None:
        kwargs.setdefault("name", "scheduled_temperature")
        super().__init__(**kwargs)
        self.autocast = False  # else cosines (and below, the variable) become half precision under mixed_float16
        self.initial = positive_number("initial", initial, "Use a value such as 0.1.")
        self.temperature = self.add_weight(
            name="temperature",
            shape=(),
            dtype="float32",
            autocast=False,
            initializer=keras.initializers.Constant(self.initial),
            trainable=False,
        )
        self.built = True

    def call(self, similarity: Tensor) -> Tensor:
        similarity = ops.convert_to_tensor(similarity)
        return similarity / ops.cast(self.temperature, similarity.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "initial": self.initial}
