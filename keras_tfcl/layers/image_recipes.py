"""Random changes that keep the content of an image, by kind of image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keras import layers

from keras_tfcl.layers.image_augmenter import ImageAugmenter
from keras_tfcl.layers.photo_recipe import checked_strength, photo_layers

VALUE_RANGE = (0, 255)  # ImageAugmenter maps all others to it
PROBABLE = (0.5, 0.5)  # Keras draws the probability itself between two bounds, so this is one half


def image_augmenter(
    kind: str, image_shape: Sequence[int], strength: float = 1.0, value_range: tuple[float, float] = (0, 255)
) -> ImageAugmenter:
    """Builds the usual augmenter for a kind of image.

    | kind | for | views |
    |---|---|---|
    | `"photos"` | photographs, as SimCLR | random resized crop, flip, colours, grey, and above 64 pixels blur |
    | `"grey"` | grey objects, such as Fashion-MNIST | flip, shift, zoom, brightness, contrast, an erased patch |
    | `"digits"` | characters on black | turn, shift, zoom, shear, an erased patch; **never flipped** |

    For photographs the changes have SimCLR's published probabilities and magnitudes:

    | operation | probability | magnitude |
    |---|---|---|
    | random resized crop | 1 | 8 % to 100 % of the area, proportions 3:4 to 4:3 |
    | horizontal flip | 0.5 | |
    | brightness, contrast, saturation, in random order | 0.8 | 0.8 s |
    | hue, among these | 0.8 | 0.2 s turns |
    | grey | 0.2 | |
    | Gaussian blur, above 64 pixels | 0.5 | kernel of a tenth of the side, sigma 0.1 to 2 |

    There s is `strength` above 64 pixels and half of it up to 64, as published for ImageNet and for CIFAR-10. For the
    other kinds, shift and zoom cut a window from half the side to the whole, whose two sides are drawn
    independently. Beyond the border the image is black.

    Args:
        kind: `"photos"`, `"grey"` or `"digits"`.
        image_shape: `(H, W, C)`. Saturation, hue and grey are left out unless C is 3.
        strength: factor on every magnitude (not on the probabilities; for photographs on those of the colours), in
            (0, 2]. Defaults to 1.
        value_range: lowest and highest value of the images, such as (0, 1) or (-1, 1). Defaults to (0, 255).

    Returns:
        `ImageAugmenter` for images with values in `value_range`.

    Raises:
        ValueError: for another kind, a shape that is not three positive integers, a strength outside (0, 2], a value
            range that is not increasing.

    Example:

    >>> image_augmenter("digits", (28, 28, 1))(np.zeros((2, 28, 28, 1), "uint8"), training=True).shape
    TensorShape([2, 28, 28, 1])

    References: Chen et al. 2020, arXiv 2002.05709, appendices A and B.9; Zhong et al. 2017, "Random Erasing",
    arXiv 1708.04896.
    """
    if kind not in _RECIPES:
        raise ValueError(f"`kind` must be one of {sorted(_RECIPES)}. Received: kind={kind!r}.")
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(
            f"`image_shape` must be (H, W, C), three positive integers. Received: image_shape={image_shape!r}. "
            "Use images.shape[1:]."
        )
    return ImageAugmenter(_RECIPES[kind](shape, checked_strength(strength)), value_range, name=f"{kind}_augmenter")


def _grey(shape: tuple[int, ...], strength: float) -> list[layers.Layer]:
    return [
        layers.RandomFlip("horizontal", dtype="float32"),
        *_window(strength),
        layers.RandomBrightness(0.2 * strength, VALUE_RANGE, dtype="float32"),
        layers.RandomContrast(0.4 * strength, VALUE_RANGE, dtype="float32"),
        _erasing(strength),
    ]


def _digits(shape: tuple[int, ...], strength: float) -> list[layers.Layer]:
    black = {"fill_mode": "constant", "fill_value": 0.0, "dtype": "float32"}
    turn, shift, zoom, shear = 0.05 * strength, 0.12 * strength, 0.25 * strength, 0.15 * strength
    return [
        layers.RandomRotation(turn, **black),
        # A pair, since Keras' layer can't read back the config of a single number.
        layers.RandomShear((0.0, shear), (0.0, shear), **black),
        layers.RandomTranslation(shift, shift, **black),
        layers.RandomZoom(zoom, zoom, **black),
        _erasing(strength),
    ]


def _window(strength: float) -> list[layers.Layer]:
    shift, zoom = 0.2 * strength, (-min(0.5 * strength, 0.8), 0.0)
    return [
        layers.RandomTranslation(shift, shift, fill_mode="constant", dtype="float32"),
        layers.RandomZoom(zoom, zoom, fill_mode="constant", dtype="float32"),
    ]


def _erasing(strength: float) -> layers.Layer:
    return layers.RandomErasing(PROBABLE, (0.02, 0.1 * strength), 0.0, VALUE_RANGE, dtype="float32")


_RECIPES: dict[str, Callable[[tuple[int, ...], float], list[layers.Layer]]] = {
    "photos": photo_layers,
    "grey": _grey,
    "digits": _digits,
}
