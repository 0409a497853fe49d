"""Random brightness, contrast, saturation and hue in random order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_tfcl.layers.color import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from keras_tfcl.typing import Config, Tensor


@keras.saving.register_keras_serializable(package="keras_tfcl")
class RandomColorJitter(keras.layers.Layer):
    """Changes the colours of photographs at random, as SimCLR and torchvision's `ColorJitter` do.

    Each image draws a factor for each of brightness, contrast and saturation, uniform in `[max(0, 1 - x), 1 + x]`, and
    a rotation of the hue, uniform in `[-hue, hue]` turns. They are applied one after the other, in an order that is
    drawn in each call. An image is left unchanged with probability `1 - probability`.

    Args:
        brightness: largest relative change, at least 0. Defaults to 0.4.
        contrast: as `brightness`.
        saturation: as `brightness`.
        hue: largest rotation of the hue in turns, from 0 to 0.5. Defaults to 0.1.
        probability: share of the images that are changed. Defaults to 0.8, as in SimCLR.
        value_range: `(0, high)`, the range of the pixels. Defaults to `(0, 255)`.
        seed: integer, or None for a random one.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        images: float `(B, H, W, C)`; C must be 3 unless saturation and hue are 0.
        training: whether to change anything. Defaults to True.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: for arguments out of range, or images without colours whose colours are to change.

    Example:

    >>> jitter = RandomColorJitter(0.4, 0.4, 0.4, 0.1, seed=0)
    >>> jitter(np.full((2, 8, 8, 3), 100.0, "float32")).shape
    TensorShape([2, 8, 8, 3])

    Reference: Chen et al. 2020 (SimCLR), arXiv 2002.05709, appendix A.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        probability: float = 0.8,
        value_range: Sequence[float] = (0, 255),
        seed: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        limits = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, value, most in [*((n, v, float("inf")) for n, v in limits.items()), ("hue", hue, 0.5)]:
            if not 0 <= value <= most:
                raise ValueError(
                    f"`{name}` must be a number from 0 to {most}. Received: {name}={value!r}. Pass 0 for no change."
                )
        if not 0 <= probability <= 1:
            raise ValueError(
                f"`probability` must be a number from 0 to 1. Received: probability={probability!r}. SimCLR uses 0.8."
            )
        if len(value_range) != 2 or value_range[0] != 0 or value_range[1] <= 0:
            raise ValueError(
                f"`value_range` must be (0, high). Received: value_range={value_range!r}. Shift the images so that "
                "black is 0, for example with keras.layers.Rescaling."
            )
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.probability = probability
        self.value_range = tuple(value_range)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Tensor, training: bool = True) -> Tensor:
        return self._changed(images) if training else images

    def _changed(self, images: tf.Tensor) -> tf.Tensor:
        if images.shape[-1] != 3 and (self.saturation or self.hue):
            raise ValueError(
                f"`images` must have 3 channels for changes of saturation and hue. Received: shape={images.shape}. "
                "Pass saturation=0 and hue=0."
            )
        draws = keras.random.uniform((5, tf.shape(images)[0]), dtype="float32", seed=self.generator)
        changed = tf.cast(draws[4] < self.probability, "float32")  # (B,)

        def factor(draw: tf.Tensor, most: float) -> tf.Tensor:
            low, high = max(0.0, 1.0 - most), 1.0 + most
            return 1.0 + changed * (low + (high - low) * draw - 1.0)

        high = float(self.value_range[1])
        every: list[tuple[float, Callable[[tf.Tensor], tf.Tensor]]] = [
            (self.brightness, lambda x: adjust_brightness(x, factor(draws[0], self.brightness), high)),
            (self.contrast, lambda x: adjust_contrast(x, factor(draws[1], self.contrast), high)),
            (self.saturation, lambda x: adjust_saturation(x, factor(draws[2], self.saturation), high)),
            (self.hue, lambda x: adjust_hue(x, changed * self.hue * (2.0 * draws[3] - 1.0), high)),
        ]
        steps = [step for most, step in every if most]
        if not steps:
            return tf.cast(images, self.compute_dtype)
        order = tf.argsort(keras.random.uniform((len(steps),), seed=self.generator))
        # A loop, not four switches in a row: XLA then compiles each step once.
        _, images = tf.while_loop(
            lambda slot, x: slot < len(steps),
            lambda slot, x: (slot + 1, tf.switch_case(order[slot], [lambda step=step: step(x) for step in steps])),
            (tf.constant(0), tf.cast(images, "float32")),
            maximum_iterations=len(steps),
        )
        return tf.cast(images, self.compute_dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": self.hue,
            "probability": self.probability,
            "value_range": self.value_range,
            "seed": self.seed,
        }
