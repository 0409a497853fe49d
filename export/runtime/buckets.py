"""Few batch sizes instead of many: on a GPU each new one costs a search for the fastest convolution."""

from __future__ import annotations

import numpy as np


def bucket_size(rows: int, limit: int) -> int:
    """Return the smallest power of two that holds `rows`, but at most `limit`; `1 <= rows <= limit`.

    >>> [bucket_size(rows, limit=100) for rows in (1, 2, 3, 33, 70, 100)]
    [1, 2, 4, 64, 100, 100]
    """
    return min(1 << (rows - 1).bit_length(), limit)


def pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """Repeat the last row until there are `rows`.

    A real row is valid input whatever the model; a row of zeros might be padding alone to an attention mask.

    >>> pad_rows(np.array([[1, 2], [3, 4]]), 4).tolist()
    [[1, 2], [3, 4], [3, 4], [3, 4]]
    """
    missing = rows - len(array)
    return array if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
