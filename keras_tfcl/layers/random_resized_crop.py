"""Random windows of images, resized to one size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import keras
import tensorflow as tf

from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import positive_integer

ATTEMPTS = 10  # as torchvision; then the largest centred window whose proportions are allowed


@keras.saving.register_keras_serializable(package="keras_tfcl")
class RandomResizedCrop(keras.layers.Layer):
    """Crops a random window of each image and resizes it, the most important augmentation of SimCLR.

    A window has a share of the image's area drawn uniformly from `scale`, and proportions (width to height) drawn
    log-uniformly from `ratio`. Of ten such draws the first that fits is taken, at a uniform position; if none fits, the
    largest centred window with allowed proportions. Resizing is bilinear and antialiased.

    Args:
        height, width: size of the result in pixels.
        scale: `(least, most)` share of the area, in (0, 1]. Defaults to `(0.08, 1.0)`, as in SimCLR.
        ratio: `(least, most)` proportions, positive. Defaults to `(3 / 4, 4 / 3)`.
        seed: integer, or None for a random one.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        images: `(B, H, W, C)`, H and W static.
        training: whether windows are random. Defaults to True; if False, the whole image is resized.

    Returns:
        float `(B, height, width, C)`.

    Raises:
        ValueError: for arguments out of range, and images of another rank or of an unknown size.

    Example:

    >>> crop = RandomResizedCrop(16, 16, seed=0)
    >>> crop(np.zeros((2, 32, 48, 3), "float32")).shape
    TensorShape([2, 16, 16, 3])

    Reference: Szegedy et al. 2015, arXiv 1409.4842; Chen et al. 2020 (SimCLR), arXiv 2002.05709, appendix A.
    """

    def __init__(
        self,
        height: int,
        width: int,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        seed: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(
                f"`scale` must be (least, most) with 0 < least <= most <= 1. Received: scale={scale!r}. Try (0.08, 1)."
            )
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(
                f"`ratio` must be (least, most) with 0 < least <= most. Received: ratio={ratio!r}. Try (0.75, 1.33)."
            )
        self.height = positive_integer("height", height, "It is the size of the result in pixels.")
        self.width = positive_integer("width", width, "It is the size of the result in pixels.")
        self.scale, self.ratio = tuple(scale), tuple(ratio)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Tensor, training: bool = True) -> Tensor:
        if images.shape.rank != 4 or None in tuple(images.shape)[1:3]:
            raise ValueError(
                "`images` must be (B, H, W, C) of a known height and width. Received: "
                f"shape={tuple(images.shape)}. Resize them first, or call images.set_shape((None, H, W, C))."
            )
        count = tf.shape(images)[0]
        whole = tf.tile([[0.0, 0.0, 1.0, 1.0]], (count, 1))
        windows = self._windows(count, *images.shape[1:3]) if training else whole
        crops = crop_and_resize(tf.cast(images, "float32"), windows, (self.height, self.width))
        return tf.cast(crops, self.compute_dtype)

    def _windows(self, count: int | Tensor, height: int, width: int) -> tf.Tensor:
        """Random windows `(B, 4)` as shares of the image: top, left, bottom, right."""
        uniform = partial(keras.random.uniform, dtype="float32", seed=self.generator)
        area, shape = (uniform((count, ATTEMPTS)) for _ in range(2))
        area = float(height * width) * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
        low, high = (math.log(limit) for limit in self.ratio)
        root = tf.exp(0.5 * (low + (high - low) * shape))  # square root of the proportions
        widths, heights = tf.sqrt(area) * root, tf.sqrt(area) / root  # (B, ATTEMPTS)
        fits = tf.logical_and(widths <= width, heights <= height)
        first = tf.argmax(fits, axis=1)
        some = tf.reduce_any(fits, axis=1)
        proportions = min(max(width / height, self.ratio[0]), self.ratio[1])
        fallback = min(float(height), width / proportions), min(float(width), height * proportions)
        sizes = [
            tf.where(some, tf.gather(drawn, first, batch_dims=1), centred)
            for drawn, centred in zip((heights, widths), fallback, strict=True)
        ]
        position = tf.where(some[:, None], uniform((count, 2)), 0.5)
        top = position[:, 0] * (1.0 - sizes[0] / height)
        left = position[:, 1] * (1.0 - sizes[1] / width)
        return tf.stack([top, left, top + sizes[0] / height, left + sizes[1] / width], axis=1)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return input_shape[0], self.height, self.width, input_shape[-1]

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "height": self.height,
            "width": self.width,
            "scale": self.scale,
            "ratio": self.ratio,
            "seed": self.seed,
        }


def crop_and_resize(images: tf.Tensor, windows: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    """Resizes a window of each image with a triangular filter, antialiased, as Pillow and `tf.image.resize` do.

    The filter is separable, so a crop is two matrix products, which XLA compiles for every device.

    Args:
        images: float `(B, H, W, C)`, H and W static.
        windows: `(B, 4)`, top, left, bottom and right as shares of the image.
        size: height and width of the result.

    Returns:
        `(B, height, width, C)`.
    """
    rows = _filter(windows[:, 0], windows[:, 2], images.shape[1], size[0])  # (B, height, H)
    columns = _filter(windows[:, 1], windows[:, 3], images.shape[2], size[1])  # (B, width, W)
    return tf.einsum("byh,bxw,bhwc->byxc", rows, columns, images, optimize="greedy")


def _filter(start: tf.Tensor, stop: tf.Tensor, length: int, count: int) -> tf.Tensor:
    """Weights `(B, count, length)` with which the samples of an axis make up the samples of a window, sum 1."""
    step = (stop - start) * float(length) / float(count)  # (B,), pixels for each sample of the result
    centres = start[:, None] * float(length) + (tf.range(count, dtype="float32") + 0.5) * step[:, None]
    pixels = tf.range(length, dtype="float32") + 0.5
    distance = tf.abs(pixels - centres[:, :, None]) / tf.maximum(step, 1.0)[:, None, None]
    weights = tf.maximum(1.0 - distance, 0.0)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)
