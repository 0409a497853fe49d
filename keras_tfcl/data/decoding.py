"""Encoded images to pixels: upright, in RGB, 8 bits a channel, whatever the format."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tensorflow as tf

from keras_tfcl.export.runtime.images import FORMATS, MAX_PIXELS, ORIENTATION, eight_bits, upright
from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    from PIL import Image

END_OF_JPEG = b"\xff\xd9"
ATTEMPTS = 10
WHOLE_UP_TO = 400_000  # pixels: to decode a smaller JPEG file once is faster than to decode two windows of it


class Window(NamedTuple):
    """A window of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def decode_crops(
    encoded: bytes, windows: Callable[[int, int], list[Window]], sizes: Sequence[tuple[int, int]]
) -> list[np.ndarray]:
    """Returns crops of an encoded image, each resized to its size.

    A large JPEG file that needs no turning is decoded only inside each window; every other image is decoded once.

    Args:
        encoded: the bytes of an image file of any of the usual formats, recognised by their content.
        windows: function from `(height, width)` of the upright image to a list of `Window`.
        sizes: height and width of each crop.

    Returns:
        A uint8 array `(height, width, 3)` for each window. Resizing is bilinear and antialiased.

    Raises:
        ValueError: the bytes are no whole image, or one with too many pixels.
    """
    with _opened(encoded) as image:
        if image.width * image.height > WHOLE_UP_TO and _is_plain_jpeg(image, encoded):
            chosen = windows(image.height, image.width)
            crops = [require("PIL.Image", "images").fromarray(_jpeg_window(encoded, window)) for window in chosen]
        else:
            whole = _upright(image)
            chosen = windows(whole.height, whole.width)
            crops = [whole.crop((w.left, w.top, w.left + w.width, w.top + w.height)) for w in chosen]
        return [_resized(crop, size) for crop, size in zip(crops, sizes, strict=True)]


def decode_fitted(encoded: bytes, size: tuple[int, int]) -> np.ndarray:
    """Returns the largest centred part of an encoded image with the proportions of `size`, resized to it.

    uint8 `(height, width, 3)`, by the very steps with which `keras_tfcl.export.OnnxEncoder` reads an image. Raises
    ValueError as `decode_crops` does.
    """
    with _opened(encoded) as image:
        bilinear = require("PIL.Image", "images").Resampling.BILINEAR
        return np.asarray(require("PIL.ImageOps", "images").fit(_upright(image), (size[1], size[0]), bilinear))


def size_of(encoded: bytes) -> tuple[int, int]:
    """Height and width of an encoded image, upright. Raises ValueError as `decode_crops` does."""
    with _opened(encoded) as image:
        return upright(image).size[::-1]


def centred_window(height: int, width: int, size: tuple[int, int]) -> Window:
    """The largest centred window with the proportions of `size`."""
    scale = min(height / size[0], width / size[1])
    inner = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    return Window((height - inner[0]) // 2, (width - inner[1]) // 2, *inner)


def random_window(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Window:
    """A random window, drawn as `keras_tfcl.layers.RandomResizedCrop` draws it."""
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        proportions = math.exp(rng.uniform(*log_ratio))
        inner = round(math.sqrt(area / proportions)), round(math.sqrt(area * proportions))
        if 0 < inner[0] <= height and 0 < inner[1] <= width:
            top, left = rng.integers(0, height - inner[0] + 1), rng.integers(0, width - inner[1] + 1)
            return Window(int(top), int(left), *inner)
    proportions = min(max(width / height, ratio[0]), ratio[1])
    return centred_window(height, width, (1000, max(round(1000 * proportions), 1)))


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    """The Pillow image of some bytes; what goes wrong while it is open becomes a ValueError with the reason."""
    try:
        with require("PIL.Image", "images").open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            yield image
    except (ValueError, ImportError):
        raise
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(error.message.split("\n")[0]) from error
    except require("PIL", "images").UnidentifiedImageError as error:
        raise ValueError(f"its content is none of {', '.join(FORMATS)}; convert it") from error
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _is_plain_jpeg(image: Image.Image, encoded: bytes) -> bool:
    """Whether each window can be decoded alone: upright, and not truncated, which a window might not notice."""
    turned = image.getexif().get(ORIENTATION, 1) != 1
    return image.format == "JPEG" and not turned and image.mode in ("RGB", "L") and END_OF_JPEG in encoded[-1024:]


def _upright(image: Image.Image) -> Image.Image:
    """The image in RGB, turned as its EXIF orientation says; transparency is dropped."""
    return eight_bits(upright(image), "the image").convert("RGB")


def _jpeg_window(encoded: bytes, window: Window) -> np.ndarray:
    return tf.io.decode_and_crop_jpeg(encoded, window, channels=3, dct_method="INTEGER_ACCURATE").numpy()


def _resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    bilinear = require("PIL.Image", "images").Resampling.BILINEAR  # antialiased: its support grows with the image
    return np.asarray(image.resize((size[1], size[0]), bilinear))
