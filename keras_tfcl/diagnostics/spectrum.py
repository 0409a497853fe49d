"""Which share of the embeddings' spread each direction carries."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_tfcl.diagnostics.figures import new_axes
from keras_tfcl.diagnostics.rows import unit_rows


def singular_spectrum(embeddings: Any) -> np.ndarray:
    """Singular values of the normalised, centred embeddings, largest first, as shares that sum to 1.

    `exp` of their entropy is the effective rank. Values that drop to nothing show a dimensional collapse.

    Args:
        embeddings: `(N, D)` or `(N, V, D)`, need not be normalised.

    Returns:
        float64 `(min(N, D),)`; all 0 if every embedding points the same way.

    Raises:
        ValueError: for another shape, NaN or Inf.

    Example:

    >>> keras_tfcl.diagnostics.singular_spectrum([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    array([0.5, 0.5])

    References: Roy and Vetterli 2007 (effective rank); Jing et al. 2022, arXiv 2110.09348 (spectra of collapse).
    """
    rows = unit_rows(embeddings)
    rows = rows.reshape(-1, rows.shape[-1])
    sigma = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    coincide = sigma[0] < 1e-5 * np.sqrt(len(rows))
    return np.zeros_like(sigma) if coincide else sigma / sigma.sum()


def plot_singular_spectrum(spectrum: np.ndarray, axes: Any = None) -> Any:
    """Draws the shares of `singular_spectrum`, logarithmically.

    Args:
        spectrum: of `singular_spectrum`.
        axes: matplotlib axes to draw on. Defaults to new ones.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
    """
    axes = new_axes(axes, "direction, largest first", "share of the singular values", "Directions in use")
    axes.plot(np.arange(1, len(spectrum) + 1), np.maximum(spectrum, 1e-9), marker=".")
    axes.set_yscale("log")
    return axes
