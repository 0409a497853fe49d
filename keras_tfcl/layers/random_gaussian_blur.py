"""Gaussian blur in two one-dimensional passes."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_tfcl.typing import Config, Tensor


def gaussian_blur(images: tf.Tensor, sigma: tf.Tensor, kernel_size: int) -> tf.Tensor:
    """Convolves each image with a Gaussian of random width, first along the columns, then along the rows.

    The kernel has `kernel_size` taps `exp(-t^2 / (2 sigma^2))`, normalised to a sum of 1, and the borders are mirrored,
    as in torchvision. Two passes cost `2 k` products a pixel where the full kernel costs `k^2`.

    Args:
        images: float `(B, H, W, C)`, H and W larger than `kernel_size // 2`; H, W and C must be static.
        sigma: `(B,)`, in pixels, positive.
        kernel_size: odd number of taps.

    Returns:
        `(B, H, W, C)`.
    """
    height, width, channels = images.shape[1:]
    radius = kernel_size // 2
    taps = tf.range(-radius, radius + 1, dtype=images.dtype)
    weights = tf.exp(-(taps**2) / (2.0 * sigma[:, None] ** 2))  # (B, kernel_size)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)

    def smooth(padded: tf.Tensor, axis: int, step: int, length: int) -> tf.Tensor:
        """One pass. The kernel is symmetric: two shifted images share a weight, which halves the products."""

        def shifted(tap: int) -> tf.Tensor:
            window = slice(step * tap, step * tap + length)
            return padded[:, window] if axis == 1 else padded[:, :, window]

        total = weights[:, radius, None, None] * shifted(radius)
        for tap in range(radius):
            total += weights[:, tap, None, None] * (shifted(tap) + shifted(2 * radius - tap))
        return total

    # Rows are kept flat, W and C in one axis: XLA then vectorises over long runs of memory.
    mirrored = tf.pad(images, [[0, 0], [radius, radius], [0, 0], [0, 0]], "REFLECT")
    blurred = smooth(tf.reshape(mirrored, (-1, height + 2 * radius, width * channels)), 1, 1, height)
    blurred = tf.reshape(blurred, (-1, height, width, channels))
    mirrored = tf.pad(blurred, [[0, 0], [0, 0], [radius, radius], [0, 0]], "REFLECT")
    flat = tf.reshape(mirrored, (-1, height, (width + 2 * radius) * channels))
    return tf.reshape(smooth(flat, 2, channels, width * channels), (-1, height, width, channels))


@keras.saving.register_keras_serializable(package="keras_tfcl")
class RandomGaussianBlur(keras.layers.Layer):
    """Blurs a share of the images, each with a Gaussian of random width, as SimCLR does.

    Keras' layer of this name convolves with the full two-dimensional kernel, which at 224 pixels takes longer than all
    other augmentations together. This layer makes two one-dimensional passes, and none if no image is blurred.

    Args:
        probability: share of the images that are blurred. Defaults to 0.5.
        kernel_size: odd number of pixels. Defaults to None: about a tenth of the smaller side.
        sigma: `(least, most)` width in pixels, drawn uniformly. Defaults to `(0.1, 2.0)`.
        seed: integer, or None for a random one.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        images: float `(B, H, W, C)` with static H, W and C.
        training: whether to blur anything. Defaults to True.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: for arguments out of range, or images not larger than half the kernel.

    Example:

    >>> blur = RandomGaussianBlur(probability=1.0, kernel_size=3, seed=0)
    >>> blur(np.eye(8, dtype="float32")[None, :, :, None]).shape
    TensorShape([1, 8, 8, 1])

    Reference: Chen et al. 2020 (SimCLR), arXiv 2002.05709, appendix A.
    """

    def __init__(
        self,
        probability: float = 0.5,
        kernel_size: int | None = None,
        sigma: Sequence[float] = (0.1, 2.0),
        seed: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= probability <= 1:
            raise ValueError(
                f"`probability` must be a number from 0 to 1. Received: probability={probability!r}. SimCLR uses 0.5."
            )
        if kernel_size is not None and (kernel_size < 1 or kernel_size % 2 == 0):
            raise ValueError(
                "`kernel_size` must be odd and positive, or None. Received: "
                f"kernel_size={kernel_size!r}. Use for example 3."
            )
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise ValueError(
                f"`sigma` must be (least, most) with 0 < least <= most. Received: sigma={sigma!r}. "
                "SimCLR uses (0.1, 2)."
            )
        self.probability = probability
        self.kernel_size = kernel_size
        self.sigma = tuple(sigma)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Tensor, training: bool = True) -> Tensor:
        return self._blurred(images) if training else images

    def _blurred(self, images: tf.Tensor) -> tf.Tensor:
        side = min(images.shape[1:3])
        kernel_size = self.kernel_size or side // 20 * 2 + 1
        if side <= kernel_size // 2:
            raise ValueError(
                f"`kernel_size` must be less than twice the smaller side of the images. Received: "
                f"kernel_size={kernel_size} for images of shape {tuple(images.shape[1:])}. Leave it "
                "out to choose a fitting one."
            )
        draws = keras.random.uniform((2, tf.shape(images)[0]), dtype="float32", seed=self.generator)
        chosen = draws[0] < self.probability
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * draws[1]
        images = tf.cast(images, "float32")
        blurred = tf.cond(
            tf.reduce_any(chosen),
            lambda: tf.where(chosen[:, None, None, None], gaussian_blur(images, sigma, kernel_size), images),
            lambda: images,
        )
        return tf.cast(blurred, self.compute_dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "probability": self.probability,
            "kernel_size": self.kernel_size,
            "sigma": self.sigma,
            "seed": self.seed,
        }
