"""The cosines of positives and negatives: their distribution, and the nearest negatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl.diagnostics.plots import new_axes
from keras_tfcl.evaluation.checks import unit_views
from keras_tfcl.validation import positive_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLOCK = 1024


@dataclass(frozen=True)
class CosineHistogram:
    """Shares of positive and of negative pairs, `(bins,)` each, between the `edges` `(bins + 1,)`."""

    edges: np.ndarray
    positive: np.ndarray
    negative: np.ndarray


def cosine_histogram(views: ArrayLike, bins: int = 50) -> CosineHistogram:
    """Counts the cosines of positives and negatives; a healthy encoder keeps them apart.

    The first view of each sample is compared with the second views of all samples.

    Args:
        views: embeddings `(N, V, D)` of V >= 2 views, need not be normalised.
        bins: number of bins over [-1, 1]. Defaults to 50.

    Returns:
        `CosineHistogram`, each part of which sums to 1. Memory is bounded by tiles of 1024 anchors.

    Raises:
        ValueError: for another shape, NaN or Inf, `bins` below 1.

    Example:

    >>> cosine_histogram([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], bins=3)
    CosineHistogram(edges=array([-1.        , -0.33333333,  0.33333333,  1.        ]),
        positive=array([0., 0., 1.]), negative=array([0., 1., 0.]))
    """
    unit = unit_views(views)
    anchors, others = unit[:, 0], unit[:, 1]
    edges = np.linspace(-1, 1, positive_integer("bins", bins, "Use bins=50.") + 1)
    positive = np.histogram(np.clip(np.sum(anchors * others, axis=1), -1, 1), edges)[0]
    negative = np.zeros(bins, "int64")
    for start in range(0, len(unit), BLOCK):
        cosines = np.clip(anchors[start : start + BLOCK] @ others.T, -1, 1)  # (block, N)
        index = np.arange(len(cosines))
        negative += np.histogram(cosines, edges)[0] - np.histogram(cosines[index, start + index], edges)[0]
    return CosineHistogram(edges, positive / positive.sum(), negative / negative.sum())


def plot_cosine_histogram(histogram: CosineHistogram, axes: Axes | None = None) -> Axes:
    """Draws a `cosine_histogram` as two overlaid stairs on `axes`, or on new axes, and returns them.

    Example:

    >>> views = np.random.default_rng(0).normal(size=(100, 2, 8))
    >>> axes = keras_tfcl.diagnostics.plot_cosine_histogram(keras_tfcl.diagnostics.cosine_histogram(views))
    >>> axes.figure.savefig("cosines.png")
    """
    axes = new_axes(axes, "cosine", "share of the pairs", "Positives and negatives")
    axes.stairs(histogram.positive, histogram.edges, fill=True, alpha=0.6, label="positives")
    axes.stairs(histogram.negative, histogram.edges, fill=True, alpha=0.6, label="negatives")
    axes.legend(loc="upper left")
    return axes


@dataclass(frozen=True)
class SimilarityProfile:
    """Mean cosines over all anchors.

    Attributes:
        positive: cosine with the other view of the anchor's sample.
        nearest: `(k,)`, cosines with the nearest, second nearest, ... negative.
        mean_negative: cosine with all negatives.
        candidates: number of negatives of each anchor; the more there are, the nearer the nearest ones.
    """

    positive: float
    nearest: np.ndarray
    mean_negative: float
    candidates: int


def similarity_profile(views: ArrayLike, neighbours: int = 10) -> SimilarityProfile:
    """Computes the mean cosine of the positive and of the nearest negatives: figure 8 of Wang and Liu.

    The first view of each sample is an anchor; the second views of all other samples are its negatives. A small
    temperature leaves a wide gap between the positive and the nearest negative; a large temperature pulls the positive
    closer to 1.

    Args:
        views: embeddings `(N, V, D)` of V >= 2 views of N samples, need not be normalised. The first two views are
            used.
        neighbours: number of nearest negatives; at most N - 1 are used. Defaults to 10.

    Returns:
        `SimilarityProfile`. Memory is bounded by tiles of 1024 anchors.

    Raises:
        ValueError: for another shape, NaN or Inf, `neighbours` below 1.

    Example:

    >>> views = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    >>> keras_tfcl.diagnostics.similarity_profile(views)
    SimilarityProfile(positive=1.0, nearest=array([0.]), mean_negative=0.0, candidates=1)

    Reference: Wang and Liu 2021, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740.
    """
    unit = unit_views(views)
    anchors, others = unit[:, 0], unit[:, 1]
    count = len(anchors)
    k = min(positive_integer("neighbours", neighbours, "Use neighbours=10, as in the paper."), count - 1)
    positive = np.sum(anchors * others, axis=1)  # (N,)
    nearest, total = np.zeros(k), 0.0
    for start in range(0, count, BLOCK):
        cosines = anchors[start : start + BLOCK] @ others.T  # (block, N)
        index = np.arange(len(cosines))
        total += cosines.sum() - cosines[index, start + index].sum()
        cosines[index, start + index] = -np.inf
        nearest += -np.sort(-np.partition(cosines, count - k, axis=1)[:, count - k :], axis=1).sum(axis=0)
    return SimilarityProfile(
        positive=float(positive.mean()),
        nearest=nearest / count,
        mean_negative=float(total / (count * (count - 1))),
        candidates=count - 1,
    )


def plot_similarity_profile(profiles: Mapping[str, SimilarityProfile], axes: Axes | None = None) -> Axes:
    """Draws `similarity_profile`s by name on `axes`, or on new axes, and returns them; figure 8 of Wang and Liu.

    Example:

    >>> views = np.random.default_rng(0).normal(size=(100, 2, 8))
    >>> profile = keras_tfcl.diagnostics.similarity_profile(views)
    >>> axes = keras_tfcl.diagnostics.plot_similarity_profile({"untrained": profile})
    >>> axes.figure.savefig("profile.png")
    """
    axes = new_axes(axes, "", "mean cosine", "Positive and nearest negatives")
    for label, profile in profiles.items():
        values = [profile.positive, *profile.nearest]
        axes.plot(range(len(values)), values, marker="o", label=label)
    longest = max(len(profile.nearest) for profile in profiles.values())
    axes.set_xticks(range(longest + 1), ["pos", *(f"n{i + 1}" for i in range(longest))])
    axes.legend()
    return axes
