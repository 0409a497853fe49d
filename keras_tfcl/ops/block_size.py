"""The size of the kernel's tiles, and whether to use tiles at all."""

from __future__ import annotations

from typing import Any

from keras_tfcl.validation import positive_integer

DENSE_UP_TO = 256
ONE_TILE_UP_TO = 2048
BLOCK = 512


def check_block_size(block_size: Any) -> str | int:
    """Returns `block_size`; raises ValueError unless it is `"auto"`, `"dense"` or an integer of at least 1."""
    if isinstance(block_size, str) and block_size in ("auto", "dense"):
        return block_size
    return positive_integer("block_size", block_size, "Or pass 'auto' (the default), or 'dense' to use no tiles.")


def choose_block(block_size: str | int, rows: int | None, columns: int | None) -> int | None:
    """The edge of the tiles for `rows` anchors and `columns` candidates (None: not known yet), or None for dense.

    `"auto"`: dense up to 256 rows and columns, where it costs little and its float64 buys digits; one tile up to 2048,
    whose 16 MB are cheap; beyond, tiles of 512, which stay in cache.

    Example:

    >>> choose_block("auto", 4096, 4096)
    512
    """
    if block_size == "dense":
        return None
    if block_size != "auto":
        return block_size
    if rows is None or columns is None:
        return BLOCK
    largest = max(rows, columns)
    if largest <= DENSE_UP_TO:
        return None
    return largest if largest <= ONE_TILE_UP_TO else BLOCK
