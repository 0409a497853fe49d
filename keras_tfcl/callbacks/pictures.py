"""Sheets of pictures, from arrays of images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def are_images(x: Any) -> bool:
    """Whether x has the shape of grey or colour images, `(N, H, W, 1 or 3)`."""
    return getattr(x, "ndim", 0) == 4 and x.shape[-1] in (1, 3)


def picture_sheet(images: Any, columns: int) -> np.ndarray:
    """Lays images out row by row.

    Args:
        images: `(N, H, W, C)`, values 0..255; others are clipped.
        columns: pictures in a row.

    Returns:
        uint8 `(ceil(N / columns) * H, columns * W, C)`, black where there is no picture.

    Example:

    >>> picture_sheet(np.full((5, 4, 6, 3), 255), columns=2).shape
    (12, 12, 3)
    """
    images = np.clip(np.round(np.asarray(images)), 0, 255).astype("uint8")
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * columns, height, width, channels), "uint8")
    sheet[:count] = images
    return sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2).reshape(rows * height, -1, channels)
