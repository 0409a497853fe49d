"""Prepare image files, bytes, Pillow images and pixel arrays for an encoder, as the metadata of its file say.

Nothing is downloaded. Only formats that Pillow decodes by itself are read, because others would start programs.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from keras_tfcl.export.errors import InputError, ModelFileError
from keras_tfcl.export.runtime.inputs import InputSpec
from keras_tfcl.export.runtime.metadata import Metadata
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.runtime.typing import ImageLike

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000  # 200 MB decoded, before it is resized
MAX_ROW_PIXELS = 1 << 24  # of the size that an encoder asks for: 4,096 x 4,096, 200 MB as float32 RGB
RESIZE_RULES = ("crop", "pad", "stretch")
_MOST = 1e30  # an absolute value of a pixel that float32 holds
# Formats that Pillow decodes by itself; others would start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name
ORIENTATION = 0x0112  # of EXIF; 1 is upright
_TURNS: dict[int | None, str] = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}  # orientation -> Pillow's name of what makes it upright
_DEEPEST = 65_535  # 16 bits


@dataclass(frozen=True)
class ImageRule:
    """How an image becomes one row of an image encoder.

    Attributes:
        height, width: size of the row; None keeps the image's own.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        dtype: of the row.
        low, high: what the pixels 0 and 255 become.
        channels_first: `(C, H, W)` rather than `(H, W, C)`.
        resize: "crop" takes the largest centred window of the row's proportions and resizes it; "pad" resizes the whole
            image and centres it on black; "stretch" changes its proportions. All with Pillow's antialiased bilinear
            filter, or its nearest one where `interpolation` says so.
        interpolation: "bilinear" or "nearest".
    """

    height: int | None
    width: int | None
    channels: int
    dtype: str
    low: float = 0.0
    high: float = 255.0
    channels_first: bool = False
    resize: str = "crop"
    interpolation: str = "bilinear"

    def read(self, image: ImageLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Return the row of one image, turned as its EXIF orientation says.

        Args:
            image: a path, the bytes of a file, a Pillow image, or a uint8 array `(H, W)` or `(H, W, C)`.
            max_pixels: the largest image that is decoded.

        Raises:
            InputError: it is not a whole image of 8 or 16 bits a channel, has more pixels, or is a URL.
            ImportError: Pillow is missing; the message names the extra.
        """
        name = name_of_image(image)
        image = _decoded(image, name, max_pixels)
        image, mode = eight_bits(image, name), _MODES[self.channels]
        pixels = np.asarray(self._resized(image if image.mode == mode else image.convert(mode)))  # no needless copy
        pixels = pixels.reshape(*pixels.shape[:2], self.channels)  # (H, W, C); grey has no last axis in Pillow
        if self.channels_first:
            pixels = pixels.transpose(2, 0, 1)
        if (self.low, self.high) != (0.0, 255.0):
            pixels = self.low + pixels * np.float64((self.high - self.low) / 255)
        return np.ascontiguousarray(pixels, dtype=self.dtype)

    def _resized(self, image: Image) -> Image:
        if self.height is None or self.width is None or image.size == (self.width, self.height):
            return image
        ops, size = require("PIL.ImageOps", "images"), (self.width, self.height)
        method = getattr(require("PIL.Image", "images").Resampling, self.interpolation.upper())
        if self.resize == "stretch":
            return image.resize(size, method)
        return ops.fit(image, size, method) if self.resize == "crop" else ops.pad(image, size, method)


def image_rule(inputs: tuple[InputSpec, ...], metadata: Metadata, path: object) -> ImageRule:
    """Return the rule for the one image input of an encoder.

    It follows from the input's shape and dtype, from the metadata `preprocessing` that the export found in the model,
    and from `notes["image"]`, where a user may say `range`, `size`, `resize` and `interpolation`.

    Raises:
        InputError: the encoder does not take images alone, or the file does not say what range its pixels have, or
            says something that no image can follow.
    """
    recorded = _recorded(metadata, path)
    spec = inputs[0]
    first = recorded.get("layout") in ("channels_first", "NCHW")
    axes = spec.shape[1:] if spec.is_image else ()
    height, width, channels = (*axes[1:], axes[0]) if first and axes else axes or (None, None, None)
    if len(inputs) != 1 or channels not in _MODES:
        remedy = "arrays"
        if spec.is_tokens:
            remedy = (
                "an array of the numbers that its tokenizer gives for your texts, or store the tokenizer in the file: "
                "export_onnx(model, path, tokenizer=tokenizer)"
            )
        raise InputError(
            f"Paths and images need an encoder with one input (batch, height, width, 1, 3 or 4 channels). Received: "
            f"one with {'; '.join(map(str, inputs))}, from {path}. Give {remedy}."
        )
    span = recorded.get("range") or ([0, 255] if spec.dtype == "uint8" else None)
    if not _is_range(span):
        raise InputError(
            f"The file must record the `range` of its pixels. Received: {span!r} in the metadata of {path}. Export "
            f'again with notes={{"image": {{"range": [0, 255]}}}}, or whatever it is, or give arrays.'
        )
    resize, interpolation = recorded.get("resize", "crop"), recorded.get("interpolation", "bilinear")
    if not _holds(spec.dtype, *span):
        raise InputError(
            f"The range must give each pixel a whole number that {spec.dtype} holds. Received: {list(span)} for the "
            f"input {spec} of {path}. Export again with floats as input, or with the range [0, 255] and "
            f"preprocessing=keras.layers.Rescaling(1 / 255)."
        )
    if resize not in RESIZE_RULES or interpolation not in ("bilinear", "nearest"):
        raise InputError(
            f"The file must record a resize rule of {list(RESIZE_RULES)} by 'bilinear' or 'nearest'. Received: "
            f"{resize!r} by {interpolation!r} in {path}. Resize yourself and give arrays."
        )
    size = recorded.get("size") or [None, None]
    if not _is_size(size):
        raise InputError(
            f"The file must record the `size` of its images as [height, width]. Received: {size!r} in the metadata "
            f'of {path}. Export again with notes={{"image": {{"size": [224, 224]}}}}, or whatever it is.'
        )
    height, width = height or size[0], width or size[1]
    if not _is_affordable([height, width]):
        raise InputError(
            f"The size of an image in the file must be below {MAX_ROW_PIXELS:,} pixels. Received: {height} x {width} "
            f"in {path}. Export again with a smaller size, or resize yourself and give arrays."
        )
    low, high = map(float, span)
    return ImageRule(height, width, channels, spec.dtype, low, high, first, str(resize), str(interpolation))


def check_image_size(metadata: Metadata, path: object) -> None:
    """Raise before anything is allocated if the metadata ask for images of an absurd size.

    Raises:
        ModelFileError: they do.
    """
    for part in (metadata.get("preprocessing"), (metadata.get("notes") or {}).get("image")):
        size = part.get("size") if isinstance(part, Mapping) else None
        if _is_size(size) and not _is_affordable(size):
            raise ModelFileError(
                f"The size of images in the metadata must be below {MAX_ROW_PIXELS:,} pixels. Received: {size} in "
                f"{path}. Do not trust this file; or export again with a smaller size."
            )


def upright(image: Image) -> Image:
    """Return an image turned as its EXIF orientation says.

    `PIL.ImageOps.exif_transpose` would write the EXIF data again as well, and fail where another entry is damaged.
    """
    image.load()  # the EXIF data of a PNG file may come last
    turn = _TURNS.get(image.getexif().get(ORIENTATION))
    return image if turn is None else image.transpose(require("PIL.Image", "images").Transpose[turn])


def eight_bits(image: Image, name: str) -> Image:
    """Return an image with 8 bits a channel, which of 16 bits of grey are the nearest: 65,535 becomes 255.

    Pillow itself would clip them, and reads 16 bits of colour as 8.

    Raises:
        InputError: its pixels are floats, or lie outside of 0..65535.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > _DEEPEST:
        raise InputError(
            f"An image must have 8 or 16 bits a channel. Received: {name} with {values.dtype} pixels in "
            f"{values.min(initial=0):g}..{values.max(initial=0):g}. Scale it to 0..255 yourself and give an array."
        )
    pillow = require("PIL.Image", "images")
    return pillow.fromarray(((values.astype("uint32") + 128) // 257).astype("uint8"))


def is_image(item: object) -> TypeGuard[ImageLike]:
    """Whether `item` is a path, the bytes of a file or a Pillow image, rather than numbers."""
    return isinstance(item, (str, os.PathLike, bytes, bytearray)) or type(item).__module__.startswith("PIL.")


def name_of_image(image: ImageLike) -> str:
    """Return what to call an image in a message."""
    if isinstance(image, (str, os.PathLike)):
        return str(image)
    if isinstance(image, (bytes, bytearray)):
        return f"{len(image)} bytes"
    return f"{type(image).__name__} of {getattr(image, 'shape', None) or getattr(image, 'size', 'unknown size')}"


def _recorded(metadata: Metadata, path: object) -> Mapping[str, object]:
    """Return what the export found about images, and what the user says of them, which counts more."""
    note = (metadata.get("notes") or {}).get("image") or {}
    if not isinstance(note, Mapping):
        raise InputError(
            f'notes["image"] must be a dict with `range`, `size`, `resize` or `interpolation`. Received: {note!r} in '
            f'the metadata of {path}. Export again with notes={{"image": {{"range": [0, 255]}}}}, or give arrays.'
        )
    return {**(metadata.get("preprocessing") or {}), **note}


def _is_range(span: object) -> TypeGuard[Sequence[float]]:
    if not isinstance(span, (list, tuple)) or len(span) != 2 or not all(isinstance(x, (int, float)) for x in span):
        return False
    return -_MOST < span[0] < span[1] < _MOST


def _is_size(size: object) -> TypeGuard[Sequence[int | None]]:
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        return False
    return all(side is None or (type(side) is int and side > 0) for side in size)


def _is_affordable(size: Sequence[int | None]) -> bool:
    return math.prod(side or 1 for side in size) <= MAX_ROW_PIXELS


def _holds(dtype: str, low: float, high: float) -> bool:
    """Whether an input type keeps the 256 values of a pixel; an integer type would cut [0, 1] down to black."""
    if np.dtype(dtype).kind == "f":
        return True
    values = low + np.arange(256) * ((high - low) / 255)
    with np.errstate(invalid="ignore"):
        return np.array_equal(values.astype(dtype), values)


def _decoded(image: ImageLike, name: str, max_pixels: int) -> Image:
    """Return a whole Pillow image, upright."""
    pillow = require("PIL.Image", "images")
    try:
        if isinstance(image, pillow.Image):
            return _checked(image, name, max_pixels)
        with _open(pillow, image) as opened:
            return _checked(opened, name, max_pixels)
    except (InputError, FileNotFoundError):
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise InputError(f"An image may have at most {max_pixels:,} pixels. Received: {name}: {error}") from error
    except pillow.UnidentifiedImageError as error:
        raise InputError(
            f"An image must be a whole file of one of {', '.join(FORMATS)}. Received: {name}, "
            "which is none of them. Convert it."
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to
        raise InputError(
            f"An image must be a whole file of one of {', '.join(FORMATS)}. Received: {name}: "
            f"{type(error).__name__}: {error}. Repair or remove it, or encode with on_error='skip'."
        ) from error


def _checked(image: Image, name: str, max_pixels: int) -> Image:
    if not image.width * image.height:
        raise InputError(f"An image must have a pixel. Received: {name}. Remove it.")
    if image.width * image.height > max_pixels:  # known from the header; nothing is decoded yet
        raise InputError(
            f"An image may have at most {max_pixels:,} pixels. Received: {name} with {image.width} x {image.height}. "
            f"Make it smaller."
        )
    return upright(image)


def _open(pillow: ModuleType, image: ImageLike) -> Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise InputError(
                f"An array of pixels must be uint8. Received: dtype {image.dtype}. Arrays that already are as the "
                f"model wants them go to encode() in a batch."
            )
        return pillow.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)
    if isinstance(image, (bytes, bytearray)):
        return pillow.open(io.BytesIO(image), formats=FORMATS)
    text = os.fspath(image)  # type: ignore[arg-type]  # `_decoded` has taken care of Pillow images
    if "://" in str(text):
        raise InputError(f"Images are not downloaded. Received: {text!r}. Download it yourself and give its path.")
    return pillow.open(Path(text), formats=FORMATS)
