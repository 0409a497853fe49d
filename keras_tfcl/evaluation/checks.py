"""Checks of arrays of embeddings: shape, labels and finite values."""

from __future__ import annotations

import importlib

import numpy as np
from numpy.typing import ArrayLike


def unit_vectors(embeddings: ArrayLike) -> np.ndarray:
    """Divides embeddings by their Euclidean length; a zero vector stays zero.

    Args:
        embeddings: `(..., D)`.

    Returns:
        float64 `(..., D)`.
    """
    embeddings = np.asarray(embeddings).astype("float64")
    length = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / np.where(length == 0, 1.0, length)


def unit_embeddings(embeddings: ArrayLike) -> np.ndarray:
    """Embeddings of at least two samples, `(N, D)` or `(N, V, D)`, as float64 unit vectors.

    Raises:
        ValueError: for another rank, fewer than two samples, NaN or Inf.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim not in (2, 3) or len(embeddings) < 2 or 0 in embeddings.shape:
        raise ValueError(
            "`embeddings` must be embeddings of at least two samples, (N, D) or (N, V, D). Received: "
            f"shape={embeddings.shape}. Pool or flatten the encoder's output to one vector for each sample."
        )
    check_finite("embeddings", embeddings)
    return unit_vectors(embeddings)


def unit_views(views: ArrayLike) -> np.ndarray:
    """Embeddings `(N, V, D)` of at least two views of at least two samples, as float64 unit vectors.

    Raises:
        ValueError: for another shape, NaN or Inf.
    """
    views = np.asarray(views)
    check_views(views)
    check_finite("views", views)
    return unit_vectors(views)


def check_views(views: np.ndarray) -> None:
    """Raises ValueError unless there are at least two views of at least two samples."""
    if views.ndim != 3 or views.shape[1] < 2 or len(views) < 2:
        raise ValueError(
            f"`views` must be embeddings (N, V, D) with N >= 2 and V >= 2. Received: shape={views.shape}. "
            "Stack the embeddings of two augmented views: numpy.stack([first, second], axis=1)."
        )


def check_finite(name: str, embeddings: np.ndarray) -> None:
    """Raises ValueError for NaN or Inf."""
    broken = ~np.isfinite(embeddings.astype("float64")).all(axis=tuple(range(1, embeddings.ndim)))  # (N,)
    if broken.any():
        raise ValueError(
            f"`{name}` must be finite. Received: NaN or Inf in {int(broken.sum())} of {len(broken)} samples. The "
            "training has diverged: lower the learning rate, and put keras_tfcl.callbacks.StopOnNonFinite() first "
            "among the callbacks to learn where."
        )


def labelled_embeddings(
    train_embeddings: ArrayLike, train_labels: ArrayLike, val_embeddings: ArrayLike, val_labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two labelled sets: finite float32 embeddings `(N, D)` and `(M, D)`, and labels `(N,)` and `(M,)`.

    Embeddings of higher rank are flattened.

    Raises:
        ValueError: for empty sets, labels of another length, sizes that differ, NaN or Inf.
    """
    train, train_labels = _labelled("train", train_embeddings, train_labels)
    val, val_labels = _labelled("val", val_embeddings, val_labels)
    if train.shape[1] != val.shape[1]:
        raise ValueError(
            f"`train_embeddings` and `val_embeddings` must have equal sizes. Received: {train.shape[1]} and "
            f"{val.shape[1]}. Embed both with the same model."
        )
    return train, train_labels, val, val_labels


def _labelled(name: str, embeddings: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    embeddings, labels = np.asarray(embeddings).astype("float32"), np.asarray(labels).reshape(-1)
    if embeddings.ndim < 2 or len(embeddings) == 0 or len(embeddings) != len(labels):
        raise ValueError(
            f"`{name}_embeddings` must be (N, D) with N labels, N at least 1. Received: shape={embeddings.shape} "
            f"with {len(labels)} labels. Pass one embedding and one label for each sample."
        )
    check_finite(f"{name}_embeddings", embeddings)
    return embeddings.reshape(len(embeddings), -1), labels


def require_scikit_learn(feature: str) -> None:
    """Raises ImportError with the extra to install if scikit-learn is missing."""
    try:
        importlib.import_module("sklearn")
    except ImportError as error:
        raise ImportError(f'{feature} needs scikit-learn: pip install "keras-tfcl[evaluation]"') from error
