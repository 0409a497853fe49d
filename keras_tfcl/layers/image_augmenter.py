"""Random views of images from Keras' own image layers, stateful or as a pure function of a seed."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tfcl.layers.random_color_jitter import RandomColorJitter
from keras_tfcl.layers.random_gaussian_blur import RandomGaussianBlur
from keras_tfcl.layers.random_resized_crop import RandomResizedCrop
from keras_tfcl.ops.seeded_call import is_generator_state, seeded_call
from keras_tfcl.typing import Config, Tensor, TensorLike

# Layers known to compile with XLA. Their `supports_jit` does not tell: it is true for some of Keras' that fail.
COMPILING = (
    keras.layers.GaussianNoise,
    keras.layers.RandomBrightness,
    keras.layers.RandomContrast,
    keras.layers.RandomErasing,
    keras.layers.RandomFlip,
    keras.layers.RandomGrayscale,
    keras.layers.Rescaling,
    RandomColorJitter,
    RandomGaussianBlur,
    RandomResizedCrop,
)


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ImageAugmenter(keras.layers.Layer):
    """Applies a list of Keras' random image layers, one after the other.

    There are two ways to call it:

    - `augmenter(images, training=True)`: each layer draws from its own seed generator, as Keras layers do.
    - `augmenter.augment(images, seed)`: a pure function. The same seed gives bit-equal views whatever the thread
      order, and no variable is read or written, so that `tf.data.Dataset.map` may run it in parallel beside a GPU.

    Args:
        layers: Keras layers from images to images, such as `keras.layers.RandomFlip("horizontal")`. Random seeds must
            be their only state. They receive values 0..255, so colour layers need `value_range=(0, 255)`.
        value_range: lowest and highest value of the images. They are mapped to 0..255 for the layers and back, so that
            (0, 1) and (-1, 1) give the same views on their own scale. Defaults to (0, 255).
        **kwargs: `name`, `dtype` of `keras.layers.Layer`; the dtype defaults to float32 under any global policy.

    Call arguments:
        images: `(B, H, W, C)`, uint8 or float, values in `value_range`.
        training: whether to augment. Defaults to False, which returns the images unchanged in float32.

    Returns:
        float32 images, values in `value_range`. There is one warning, in eager mode and in `ContrastiveModel.fit`, for
        images that lie outside of it or use at most 1/25 of it.

    Raises:
        ValueError: if `value_range` is not an increasing pair, if `layers` is empty or holds anything but layers, if a
            layer keeps state other than random seeds (batch normalisation), if images are not of rank 4; from `augment`
            also if a layer draws from a random generator that is not its own attribute.

    Example:

    >>> augmenter = ImageAugmenter([keras.layers.RandomFlip("horizontal"), keras.layers.RandomContrast(0.4)])
    >>> images = np.zeros((2, 8, 8, 3), "uint8")
    >>> augmenter(images, training=True).shape
    TensorShape([2, 8, 8, 3])
    >>> seeds = tf.data.Dataset.random(seed=0, rerandomize_each_iteration=True).batch(2)
    >>> pairs = tf.data.Dataset.zip(tf.data.Dataset.from_tensors(images), seeds)
    >>> views = pairs.map(augmenter.augment, num_parallel_calls=2)
    """

    def __init__(
        self, layers: Sequence[keras.layers.Layer], value_range: tuple[float, float] = (0, 255), **kwargs: object
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.layers = _checked_layers(layers)
        self.value_range = _checked_range(value_range)
        self._warned = False
        self._program: Callable[[TensorLike, TensorLike], Tensor] | None = None

    def build(self, input_shape: Sequence[int | None]) -> None:
        shape = tuple(input_shape)
        for layer in self.layers:
            if not layer.built:
                layer.build(shape)
            _check_state(layer)
            shape = layer.compute_output_shape(shape)

    def call(self, images: TensorLike, training: bool = False) -> Tensor:
        images = self._as_float_images(images)
        return self._apply(images) if training else images

    def augment(self, images: TensorLike, seed: TensorLike) -> Tensor:
        """Computes random views of `images` as a pure function of `seed`.

        Args:
            images: `(B, H, W, C)`, uint8 or float, values in `value_range`.
            seed: integer tensor `(2,)`.

        Returns:
            float32 images, each changed by its own random numbers.
        """
        images = self._as_float_images(images)
        if not self.built:
            self.build(images.shape)
        images, own = seeded_call(lambda: self._apply(images), self.variables, _as_seed(seed))
        if not own:
            names = [type(layer).__name__ for layer in self.layers]
            raise ValueError(
                f"`augment` needs layers that draw from their own seed generator. Received: layers={names}, "
                "of which one draws from a generator outside of its attributes. "
                "Set `self.generator = keras.random.SeedGenerator(seed)` in that layer and pass it on as `seed`."
            )
        return images

    @property
    def compiles(self) -> bool:
        """Whether every layer is known to compile with XLA."""
        return all(type(layer) in COMPILING for layer in self.layers)

    def program(self, images: TensorLike, seed: TensorLike) -> Tensor:
        """Computes what `augment` computes, as one XLA program where the layers compile: several times as fast.

        XLA makes other numbers out of the same random bits, so that the views differ from those of `augment`. They are
        the same ones on every device, whether or not the calling function is compiled with XLA too.
        """
        if not self.compiles:
            return self.augment(images, seed)
        if self._program is None:
            self._program = tf.function(self.augment, jit_compile=True)
        return self._program(images, seed)

    def check_range(self, images: ArrayLike) -> str | None:
        """Warns once, and returns the warning, if the values of images do not fit `value_range`.

        Args:
            images: array or eager tensor.

        Returns:
            None for images whose values lie in the range and use more than 1/25 of it, or are all its lowest value.
        """
        low, high = self.value_range
        images = np.asarray(images)
        least, most = (float(images.min()), float(images.max())) if images.size else (low, low)
        slack = 0.05 * (high - low)  # resizing and sharpening overshoot
        fits = low - slack <= least and most <= high + slack
        if (fits and (most <= low or most - low > (high - low) / 25)) or not math.isfinite(most - least):
            return None
        problem = (
            f"The augmenter expects images with values {low:g} to {high:g}. Received: values {least:g} to {most:g}, "
            f"which it turns into noise or black. Pass value_range=(lowest, highest) of your images, such as (0, 1) or "
            f"(-1, 1), or scale them to {low:g}..{high:g}."
        )
        if not self._warned:
            self._warned = True
            warnings.warn(problem, stacklevel=2)
        return problem

    def _as_float_images(self, images: TensorLike) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        if images.shape.rank != 4:
            raise ValueError(
                f"`images` must be of shape (B, H, W, C). Received: shape={images.shape}. "
                "Batch single images first, for example with dataset.batch(256)."
            )
        if tf.executing_eagerly() and not self._warned:
            self.check_range(images)
        return tf.cast(images, "float32")

    def _apply(self, images: Tensor) -> Tensor:
        low, high = self.value_range
        rescales = self.value_range != (0, 255)
        if rescales:
            images = (images - low) * (255 / (high - low))
        for layer in self.layers:
            options = {"training": True} if "training" in inspect.signature(layer.call).parameters else {}
            images = layer(images, **options)
        images = tf.cast(images, "float32")
        return images * ((high - low) / 255) + low if rescales else images

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        shape = tuple(input_shape)
        for layer in self.layers:
            shape = layer.compute_output_shape(shape)
        return shape

    def get_config(self) -> Config:
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        return {**super().get_config(), "layers": layers, "value_range": self.value_range}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ImageAugmenter:
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})


def _checked_layers(layers: Sequence[keras.layers.Layer]) -> list[keras.layers.Layer]:
    is_list = isinstance(layers, (list, tuple))
    if not is_list or not layers or not all(isinstance(layer, keras.layers.Layer) for layer in layers):
        raise ValueError(
            f"`layers` must be a non-empty list of Keras layers. Received: layers={layers!r}. "
            'Use for example [keras.layers.RandomFlip("horizontal")], or `image_augmenter(kind, image_shape)`.'
        )
    return list(layers)


def _check_state(layer: keras.layers.Layer) -> None:
    others = [variable.path for variable in layer.variables if not is_generator_state(variable)]
    if others:
        raise ValueError(
            f"`ImageAugmenter` takes layers whose only state is a random seed. Received: {type(layer).__name__} "
            f"'{layer.name}', which keeps {others}. Move it into the encoder."
        )


def _checked_range(value_range: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = value_range
        rises = math.isfinite(high - low) and low < high
    except (TypeError, ValueError):
        rises = False
    if not rises:
        raise ValueError(
            f"`value_range` must be the lowest and the highest value of the images. Received: "
            f"value_range={value_range!r}. Use (0, 255), (0, 1) or (-1, 1)."
        )
    return low, high


def _as_seed(seed: TensorLike) -> tf.Tensor:
    seed = tf.convert_to_tensor(seed)
    if not seed.dtype.is_integer or not seed.shape.is_compatible_with((2,)):
        raise ValueError(
            f"`seed` must be an integer tensor of shape (2,). Received: shape={seed.shape}, dtype={seed.dtype.name}. "
            "Use for example tf.constant([epoch, step])."
        )
    return tf.cast(seed, "int64")
