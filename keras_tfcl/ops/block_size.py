"""The size of the kernel's tiles, and whether to use tiles at all."""

from __future__ import annotations

import tensorflow as tf

from keras_tfcl._keras_compat import gpu_memory
from keras_tfcl.typing import Tensor
from keras_tfcl.validation import positive_integer

DENSE_UP_TO = 256
ONE_TILE_UP_TO = 2048
SYMMETRIC_ONE_TILE_UP_TO = 512  # beyond, almost half of the tiles can be left out
BLOCK = 512
MATRICES = 3  # of float32 that a tile takes at a time on an accelerator: cosines, their slopes, a mask or weights
SHARE = 1 / 8  # of an accelerator's memory for them
ACCELERATOR_BLOCKS = (8192, 4096, 2048)
STRIP = 128  # anchors: on a CPU, a strip of cosines is then no larger than embeddings of this many features
ACCELERATOR_STRIP = 2048


def check_block_size(block_size: object) -> str | int:
    """Returns `block_size`; raises ValueError unless it is `"auto"`, `"dense"` or an integer of at least 1."""
    if isinstance(block_size, str) and block_size in ("auto", "dense"):
        return block_size
    return positive_integer("block_size", block_size, "Or pass 'auto' (the default), or 'dense' to use no tiles.")


def choose_block(block_size: str | int, rows: int | None, columns: int | None, symmetric: bool = False) -> int | None:
    """The edge of the tiles for `rows` anchors and `columns` candidates (None: not known yet), or None for dense.

    `"auto"` plans for the device that the step runs on: see `plan_block`. `symmetric` says that the anchors are the
    candidates.

    Example:

    >>> choose_block(64, 4096, 4096)
    64
    """
    if block_size == "dense":
        return None
    if isinstance(block_size, int):
        return block_size
    largest = None if rows is None or columns is None else max(rows, columns)
    return plan_block(largest, accelerator_memory(), symmetric)


def plan_block(largest: int | None, memory: int | None = None, symmetric: bool = False) -> int | None:
    """The edge of the tiles that `"auto"` takes, None for dense.

    On a CPU: dense up to 256 embeddings, where it costs little and its float64 buys digits; one tile up to 2048, whose
    16 MB are cheap, but only up to 512 if the anchors are the candidates, since almost half of the tiles can then be
    left out; beyond, tiles of 512, which stay in cache. On an accelerator, where each tile is a handful of kernels to
    launch: one tile while three float32 matrices fit into an eighth of its memory; beyond, the largest of 8192, 4096
    and 2048 of which they do. Never dense, since that is float64.

    Args:
        largest: the number of anchors or of candidates, whichever is larger. None: not known yet.
        memory: of the accelerator, in bytes. None: on a CPU.
        symmetric: whether the anchors are the candidates.

    Example:

    >>> plan_block(8192), plan_block(8192, memory=16 * 2**30), plan_block(65536, memory=16 * 2**30)
    (512, 8192, 8192)
    """
    if memory is None:
        if largest is None:
            return BLOCK
        if largest <= DENSE_UP_TO:
            return None
        return largest if largest <= (SYMMETRIC_ONE_TILE_UP_TO if symmetric else ONE_TILE_UP_TO) else BLOCK
    limit = memory * SHARE / (4 * MATRICES)
    if largest is not None and largest**2 <= limit:
        return largest
    return next((edge for edge in ACCELERATOR_BLOCKS if edge**2 <= limit), ACCELERATOR_BLOCKS[-1])


def strip_height(edge: Tensor | int, candidates: Tensor | int, on_gpu: bool) -> Tensor:
    """How many anchors are compared with all candidates at a time, to find their hardest negatives.

    128 on a CPU. Up to 2048 on a GPU, which launches some kernels for each strip, but no more pairs than a tile of
    `edge` has.

    Example:

    >>> int(strip_height(8192, 8192, on_gpu=True)), int(strip_height(8192, 131072, on_gpu=True))
    (2048, 512)
    """
    if not on_gpu:
        return tf.constant(STRIP)
    pairs = tf.cast(edge, "int64") ** 2
    return tf.cast(tf.clip_by_value(pairs // tf.cast(candidates, "int64"), STRIP, ACCELERATOR_STRIP), "int32")


def accelerator_memory() -> int | None:
    """Bytes of memory of the GPU that operations are placed on, None on a CPU."""
    return gpu_memory() if runs_on_gpu() else None


def runs_on_gpu() -> bool:
    """Whether operations are placed on a GPU."""
    return bool(tf.config.list_logical_devices("GPU")) and "CPU" not in tf.zeros([]).device.upper()
