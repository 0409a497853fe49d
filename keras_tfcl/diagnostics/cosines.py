"""How the cosines of positives and of negatives are distributed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_tfcl.diagnostics.figures import new_axes
from keras_tfcl.diagnostics.rows import unit_views


@dataclass(frozen=True)
class CosineHistogram:
    """Shares of positive and of negative pairs, `(bins,)` each, between the `edges` `(bins + 1,)`."""

    edges: np.ndarray
    positive: np.ndarray
    negative: np.ndarray


def cosine_histogram(views: Any, bins: int = 50) -> CosineHistogram:
    """Counts the cosines of positives and negatives; a healthy encoder keeps them apart.

    The first view of each instance is compared with the second views of all.

    Args:
        views: embeddings `(N, V, D)` of V >= 2 views, need not be normalised.
        bins: number of bins over [-1, 1]. Defaults to 50.

    Returns:
        `CosineHistogram`; each of its two sums to 1.

    Raises:
        ValueError: for another shape, NaN or Inf.

    Example:

    >>> cosine_histogram([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], bins=3)
    CosineHistogram(edges=array([-1.        , -0.33333333,  0.33333333,  1.        ]),
        positive=array([0., 0., 1.]), negative=array([0., 1., 0.]))
    """
    rows = unit_views(views)
    cosines = np.clip(rows[:, 0] @ rows[:, 1].T, -1, 1)  # (N, N)
    edges = np.linspace(-1, 1, bins + 1)
    same = np.eye(len(rows), dtype=bool)
    positive, negative = (np.histogram(cosines[mask], edges)[0] for mask in (same, ~same))
    return CosineHistogram(edges, positive / positive.sum(), negative / negative.sum())


def plot_cosine_histogram(histogram: CosineHistogram, axes: Any = None) -> Any:
    """Draws `cosine_histogram` as two overlaid stairs.

    Args:
        histogram: of `cosine_histogram`.
        axes: matplotlib axes to draw on. Defaults to new ones.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
    """
    axes = new_axes(axes, "cosine", "share of the pairs", "Positives and negatives")
    axes.stairs(histogram.positive, histogram.edges, fill=True, alpha=0.6, label="positives")
    axes.stairs(histogram.negative, histogram.edges, fill=True, alpha=0.6, label="negatives")
    axes.legend(loc="upper left")
    return axes
