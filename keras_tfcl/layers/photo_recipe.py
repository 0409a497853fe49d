"""SimCLR's random changes of photographs."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_tfcl.layers.random_color_jitter import RandomColorJitter
from keras_tfcl.layers.random_gaussian_blur import RandomGaussianBlur
from keras_tfcl.layers.random_resized_crop import RandomResizedCrop
from keras_tfcl.validation import positive_number

# SimCLR's colour strength is 1 for ImageNet and 0.5 for CIFAR-10, which has no blur either.
SMALL = 64
MIN_AREA = 0.08


def photo_layers(
    image_shape: Sequence[int], strength: float = 1.0, min_area: float | None = MIN_AREA, flip: bool = True
) -> list[keras.layers.Layer]:
    """The layers of SimCLR's augmentation for pixels 0..255: crop, flip, colour jitter, grey and blur.

    The table of probabilities and magnitudes stands in `keras_tfcl.layers.image_augmenter`.

    Args:
        image_shape: `(H, W, C)` of the views. Saturation, hue and grey are left out unless C is 3.
        strength: factor on the colour jitter.
        min_area: least share of the image's area in a random resized crop; None for no crop, since
            `data.image_views` crops while it decodes.
        flip: whether half of the views are mirrored.

    Reference: Chen et al. 2020 (SimCLR), arXiv 2002.05709, appendices A and B.9.
    """
    height, width, channels = image_shape
    strength = strength if min(height, width) > SMALL else 0.5 * strength
    layers: list[keras.layers.Layer] = []
    if min_area is not None:
        layers.append(RandomResizedCrop(height, width, (min_area, 1.0), dtype="float32"))
    if flip:
        layers.append(keras.layers.RandomFlip("horizontal", dtype="float32"))
    change, hue = 0.8 * strength, min(0.2 * strength, 0.5)
    if channels == 3:
        layers.append(RandomColorJitter(change, change, change, hue, 0.8, dtype="float32"))
        layers.append(keras.layers.RandomGrayscale(0.2, dtype="float32"))
    else:
        layers.append(RandomColorJitter(change, change, 0.0, 0.0, 0.8, dtype="float32"))
    if min(height, width) > SMALL:
        layers.append(RandomGaussianBlur(0.5, dtype="float32"))
    return layers


def checked_strength(strength: float) -> float:
    """Returns `strength`; raises ValueError unless it lies in (0, 2]."""
    strength = positive_number("strength", strength, "1.0 is the usual strength.")
    if strength > 2:
        raise ValueError(f"`strength` must be at most 2. Received: strength={strength}. 1.0 is the usual strength.")
    return strength
