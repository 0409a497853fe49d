from __future__ import annotations

import math
from collections.abc import Callable

import keras

from keras_tfcl.scaling import ScheduledTemperature
from keras_tfcl.typing import Logs
from keras_tfcl.validation import positive_number


def cosine_temperature(epoch: int, maximum: float = 0.5, minimum: float = 0.1, half_period: float = 200) -> float:
    """Computes a temperature that oscillates between `maximum` (epoch 0) and `minimum` (epoch `half_period`).

    Formula: `minimum + (maximum - minimum) * (1 + cos(pi * epoch / half_period)) / 2`, with period 2 half_period.
    Large temperatures group similar samples and small ones separate each sample from all others; the schedule
    alternates between the two.

    Args:
        epoch: index of the epoch, from 0.
        maximum: temperature at the start. Defaults to the authors' 0.5.
        minimum: lowest temperature. Defaults to the authors' 0.1.
        half_period: number of epochs from `maximum` to `minimum`. Defaults to the authors' 200.

    Example:

    >>> [round(cosine_temperature(epoch), 2) for epoch in (0, 100, 200, 400)]
    [0.5, 0.3, 0.1, 0.5]

    Reference: Kukleva et al. 2023, "Temperature Schedules for Self-Supervised Contrastive Methods on Long-Tail Data",
    arXiv 2303.13664.
    """
    return minimum + (maximum - minimum) * (1.0 + math.cos(math.pi * epoch / half_period)) / 2.0


class TemperatureSchedule(keras.callbacks.Callback):
    """Sets the temperature of the model's loss at the start of each epoch, and logs it as `"temperature"`.

    The loss needs a `keras_tfcl.ScheduledTemperature` as its scaling. The training step is not compiled again.

    Args:
        schedule: function from the epoch (from 0) to the temperature, such as
            `functools.partial(cosine_temperature, half_period=50)`. A `keras.optimizers.schedules.LearningRateSchedule`
            works too; its steps are epochs here. Defaults to `cosine_temperature`.

    Raises:
        ValueError: if `schedule` is not a function; when training starts, if the loss has another scaling; during
            training, if the schedule returns anything but a positive finite number.

    Example:

    >>> loss = keras_tfcl.ContrastiveLoss(keras_tfcl.ScheduledTemperature())
    >>> decay = keras.optimizers.schedules.CosineDecay(0.5, decay_steps=100, alpha=0.2)  # 0.5 down to 0.1
    >>> schedule = keras_tfcl.callbacks.TemperatureSchedule(decay)
    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> encoder.compile("adam", loss=loss)
    >>> x, labels = np.random.default_rng(0).normal(size=(16, 4)), np.arange(16) % 4
    >>> history = encoder.fit(x, labels, epochs=2, callbacks=[schedule], verbose=0).history
    >>> [round(t, 4) for t in history["temperature"]]
    [0.5, 0.4999]
    """

    def __init__(self, schedule: Callable[[int], float] = cosine_temperature) -> None:
        super().__init__()
        if not callable(schedule):
            raise ValueError(
                "`schedule` must be a function of the epoch, such as keras_tfcl.callbacks.cosine_temperature. "
                f"Received: schedule={schedule!r}. Pass a function."
            )
        self.schedule = schedule

    def on_train_begin(self, logs: Logs | None = None) -> None:
        scaling = getattr(self.model.loss, "scaling", None)
        if not isinstance(scaling, ScheduledTemperature):
            raise ValueError(
                "TemperatureSchedule needs a loss whose scaling is a keras_tfcl.ScheduledTemperature. Received: "
                f"loss={type(self.model.loss).__name__}, scaling={type(scaling).__name__}. "
                "Use loss=ContrastiveLoss(ScheduledTemperature())."
            )

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        value = float(self.schedule(epoch))
        self.model.loss.scaling.temperature.assign(
            positive_number("temperature", value, f"The schedule returned it for epoch {epoch}: change `schedule`.")
        )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["temperature"] = float(self.model.loss.scaling.temperature.numpy())
