"""Random views of images from Keras' own image layers, stateful or as a pure function of a seed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_tfcl.ops.seeded_call import seeded_call


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ImageAugmenter(keras.layers.Layer):
    """Applies a list of Keras' random image layers, one after the other.

    There are two ways to call it:

    - `augmenter(images, training=True)`: each layer draws from its own seed generator, as Keras layers do.
    - `augmenter.augment(images, seed)`: a pure function. The same seed gives bit-equal views whatever the thread
      order, and no variable is read or written, so that `tf.data.Dataset.map` may run it in parallel beside a GPU.

    Args:
        layers: Keras layers from images to images, such as `keras.layers.RandomFlip("horizontal")`. Random seeds must
            be their only state. Give colour layers `value_range=(0, 255)`.
        **kwargs: `name`, `dtype` of `keras.layers.Layer`; the dtype defaults to float32 under any global policy.

    Call arguments:
        images: `(B, H, W, C)`, uint8 or float, values 0..255.
        training: whether to augment. Defaults to False: the images come back as they are, in float32.

    Returns:
        float32 images, values 0..255.

    Raises:
        ValueError: if `layers` is empty or holds anything but layers, if a layer keeps state other than random seeds
            (batch normalisation), if images are not of rank 4; from `augment` also if a layer draws from a random
            generator that is not its own attribute.

    Example:

    >>> augmenter = ImageAugmenter([keras.layers.RandomFlip("horizontal"), keras.layers.RandomContrast(0.4)])
    >>> images = np.zeros((2, 8, 8, 3), "uint8")
    >>> augmenter(images, training=True).shape
    TensorShape([2, 8, 8, 3])
    >>> seeds = tf.data.Dataset.random(seed=0, rerandomize_each_iteration=True).batch(2)
    >>> pairs = tf.data.Dataset.zip(tf.data.Dataset.from_tensors(images), seeds)
    >>> views = pairs.map(augmenter.augment, num_parallel_calls=2)
    """

    def __init__(self, layers: Sequence[keras.layers.Layer], **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.layers = _checked_layers(layers)

    def build(self, input_shape: Sequence[int | None]) -> None:
        shape = tuple(input_shape)
        for layer in self.layers:
            if not layer.built:
                layer.build(shape)
            _check_state(layer)
            shape = layer.compute_output_shape(shape)

    def call(self, images: Any, training: bool = False) -> Any:
        images = _as_float_images(images)
        return self._apply(images) if training else images

    def augment(self, images: Any, seed: Any) -> Any:
        """Random views of `images` as a pure function of `seed`.

        Args:
            images: `(B, H, W, C)`, uint8 or float, values 0..255.
            seed: integer tensor `(2,)`.

        Returns:
            float32 images; each image of the batch is altered on its own.
        """
        images = _as_float_images(images)
        if not self.built:
            self.build(images.shape)
        images, own = seeded_call(lambda: self._apply(images), self.variables, _as_seed(seed))
        if not own:
            raise ValueError(
                f"`augment` needs layers that draw from their own seed generator. Received: layers={self._names()}, "
                "of which one draws from a generator that is none of its attributes. "
                "Set `self.generator = keras.random.SeedGenerator(seed)` in that layer and pass it on as `seed`."
            )
        return images

    def _apply(self, images: Any) -> Any:
        for layer in self.layers:
            images = layer(images, training=True) if _takes_training(layer) else layer(images)
        return tf.cast(images, "float32")

    def _names(self) -> list[str]:
        return [type(layer).__name__ for layer in self.layers]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        shape = tuple(input_shape)
        for layer in self.layers:
            shape = layer.compute_output_shape(shape)
        return shape

    def get_config(self) -> dict[str, Any]:
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        return {**super().get_config(), "layers": layers}

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


def _takes_training(layer: keras.layers.Layer) -> bool:
    return "training" in inspect.signature(layer.call).parameters


def _check_state(layer: keras.layers.Layer) -> None:
    others = [v.path for v in layer.variables if tuple(v.shape) != (2,) or not v.dtype.startswith(("int", "uint"))]
    if others:
        raise ValueError(
            f"`ImageAugmenter` takes layers whose only state is a random seed. Received: {type(layer).__name__} "
            f"'{layer.name}', which keeps {others}. Move it into the encoder."
        )


def _as_float_images(images: Any) -> tf.Tensor:
    images = tf.convert_to_tensor(images)
    if images.shape.rank != 4:
        raise ValueError(
            f"`images` must be of shape (B, H, W, C). Received: shape={images.shape}. "
            "Batch single images first, for example with dataset.batch(256)."
        )
    return tf.cast(images, "float32")


def _as_seed(seed: Any) -> tf.Tensor:
    seed = tf.convert_to_tensor(seed)
    if not seed.dtype.is_integer or not seed.shape.is_compatible_with((2,)):
        raise ValueError(
            f"`seed` must be an integer tensor of shape (2,). Received: shape={seed.shape}, dtype={seed.dtype.name}. "
            "Use for example tf.constant([epoch, step])."
        )
    return tf.cast(seed, "int64")
