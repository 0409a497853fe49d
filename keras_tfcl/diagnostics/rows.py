"""What the diagnostics take as embeddings, as float64 unit rows."""

from __future__ import annotations

from typing import Any

import numpy as np


def unit_rows(embeddings: Any, name: str = "embeddings") -> np.ndarray:
    """L2-normalised float64 embeddings `(N, D)` or `(N, V, D)`; a zero row stays zero.

    Raises:
        ValueError: for another rank, fewer than two instances, NaN or Inf.
    """
    rows = np.asarray(embeddings).astype("float64")
    if rows.ndim not in (2, 3) or len(rows) < 2 or 0 in rows.shape:
        raise ValueError(
            f"`{name}` must be embeddings of at least two instances, (N, D) or (N, V, D). Received: shape={rows.shape}."
            " Pool or flatten the encoder's output to one vector an instance."
        )
    broken = ~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    if broken.any():
        raise ValueError(
            f"`{name}` must be finite. Received: NaN or Inf in {int(broken.sum())} of {len(rows)} rows. The training "
            "has diverged: lower the learning rate, or clip the gradients."
        )
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length == 0, 1.0, length)


def unit_views(views: Any) -> np.ndarray:
    """L2-normalised float64 embeddings `(N, V, D)` of V >= 2 views.

    Raises:
        ValueError: for another shape; and as `unit_rows`.
    """
    rows = unit_rows(views, "views")
    if rows.ndim != 3 or rows.shape[1] < 2:
        raise ValueError(
            f"`views` must be embeddings (N, V, D) of V >= 2 views of each instance. Received: shape={rows.shape}. "
            "Stack the embeddings of two augmented views: numpy.stack([first, second], axis=1)."
        )
    return rows
