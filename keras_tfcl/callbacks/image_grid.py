"""Grids of images, from arrays."""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

LARGEST_SPRITE = 8192  # pixels a side; TensorBoard shows no larger one


def are_images(x: object) -> TypeGuard[np.ndarray]:
    """Whether x has the shape of grey or colour images, `(N, H, W, 1 or 3)`."""
    return getattr(x, "ndim", 0) == 4 and x.shape[-1] in (1, 3)  # type: ignore[attr-defined]  # it has `ndim`


def check_value_range(x: np.ndarray, value_range: tuple[float, float]) -> None:
    """Raises ValueError if images lie outside a range of values, or fill less than 1/25 of it, as 0..1 of 0..255."""
    low, high = value_range
    least, most = float(np.min(x)), float(np.max(x))
    slack = 0.05 * (high - low)  # resizing overshoots
    if least < low - slack or most > high + slack or low < most < low + (high - low) / 25:
        raise ValueError(
            f"`x` must hold images with values {low:g} to {high:g}. Received: values {least:g} to {most:g}. Pass the "
            "lowest and the highest value that your images may have, such as value_range=(0, 1)."
        )


def image_grid(images: ArrayLike, columns: int, value_range: tuple[float, float] = (0, 255)) -> np.ndarray:
    """Lays images out row by row.

    Args:
        images: `(N, H, W, C)`.
        columns: number of images in a row.
        value_range: the values of black and of white; others are clipped. Defaults to (0, 255).

    Returns:
        uint8 `(ceil(N / columns) * H, columns * W, C)`, black where there is no image.

    Example:

    >>> image_grid(np.full((5, 4, 6, 3), 255), columns=2).shape
    (12, 12, 3)
    """
    low, high = value_range
    images = (np.asarray(images) - low) * (255 / (high - low))
    images = np.clip(np.round(images), 0, 255).astype("uint8")
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * columns, height, width, channels), "uint8")
    grid[:count] = images
    return grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2).reshape(rows * height, -1, channels)


def sprite(images: ArrayLike, value_range: tuple[float, float] = (0, 255)) -> tuple[np.ndarray, tuple[int, int]]:
    """Lays images out in a square grid, row by row, and shrinks them where the grid would exceed 8192 pixels.

    Args:
        images: `(N, H, W, 1 or 3)`.
        value_range: as in `image_grid`.

    Returns:
        The grid, uint8 `(S * h, S * w, C)` with S the square root of N rounded up, and `(h, w)`.

    Example:

    >>> grid, size = sprite(np.zeros((5, 4, 6, 3), "uint8"))
    >>> grid.shape, size
    ((12, 18, 3), (4, 6))
    """
    images = np.asarray(images)
    side = math.ceil(math.sqrt(len(images)))
    size = tuple(min(length, LARGEST_SPRITE // side) for length in images.shape[1:3])
    if size != images.shape[1:3]:
        images = tf.image.resize(images, size, antialias=True).numpy()
    grid = image_grid(images, side, value_range)
    missing = side * size[0] - len(grid)
    return np.pad(grid, ((0, missing), (0, 0), (0, 0))), size
