"""Changes of colour as pure functions: brightness, contrast, saturation, hue and grey, as torchvision defines them.

Images are float tensors `(B, H, W, 3)` with values from 0 to `high`, and each image has a factor of its own, `(B,)`.
Results are clipped to the same range. Every function compiles with XLA.
"""

from __future__ import annotations

import tensorflow as tf

# ITU-R 601-2 luma, the weights of torchvision and Pillow.
RED, GREEN, BLUE = 0.2989, 0.587, 0.114


def to_grayscale(images: tf.Tensor) -> tf.Tensor:
    """The luma `(B, H, W, 1)`: 0.2989 R + 0.587 G + 0.114 B; or the mean of another number of channels."""
    if images.shape[-1] != 3:
        return tf.reduce_mean(images, axis=-1, keepdims=True)
    return RED * images[..., 0:1] + GREEN * images[..., 1:2] + BLUE * images[..., 2:3]


def adjust_brightness(images: tf.Tensor, factor: tf.Tensor, high: float = 255.0) -> tf.Tensor:
    """Returns `factor * images`; 0 gives black, 1 the images as they were."""
    return tf.clip_by_value(images * _per_image(factor), 0.0, high)


def adjust_contrast(images: tf.Tensor, factor: tf.Tensor, high: float = 255.0) -> tf.Tensor:
    """Returns `factor * images + (1 - factor) * m`, m the mean luma of the image."""
    mean = tf.reduce_mean(to_grayscale(images), axis=(1, 2, 3), keepdims=True)  # (B, 1, 1, 1)
    return tf.clip_by_value(mean + (images - mean) * _per_image(factor), 0.0, high)


def adjust_saturation(images: tf.Tensor, factor: tf.Tensor, high: float = 255.0) -> tf.Tensor:
    """Returns `factor * images + (1 - factor) * g`, g the luma of the pixel; 0 gives grey images."""
    gray = to_grayscale(images)
    return tf.clip_by_value(gray + (images - gray) * _per_image(factor), 0.0, high)


def adjust_hue(images: tf.Tensor, shift: tf.Tensor, high: float = 255.0) -> tf.Tensor:
    """Rotates the hue (of HSV) by `shift` turns, from -0.5 to 0.5; value and saturation stay.

    With v the largest and m the smallest channel, c = v - m and h the hue in sixths of a turn, the channels are
    `v - c * clip(min(k, 4 - k), 0, 1)`, k = (n + h) mod 6, n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = images[..., 0:1], images[..., 1:2], images[..., 2:3]
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    safe = tf.where(chroma > 0, chroma, tf.ones_like(chroma))
    hue = tf.where(
        value == red,
        (green - blue) / safe,
        tf.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    hue += 6.0 * _per_image(shift)

    def channel(n: float) -> tf.Tensor:
        k = n + hue
        k -= 6.0 * tf.floor(k / 6.0)
        return value - chroma * tf.clip_by_value(tf.minimum(k, 4.0 - k), 0.0, 1.0)

    return tf.clip_by_value(tf.concat([channel(5.0), channel(3.0), channel(1.0)], axis=-1), 0.0, high)


def _per_image(factor: tf.Tensor) -> tf.Tensor:
    return factor[:, None, None, None]
