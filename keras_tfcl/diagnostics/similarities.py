"""How similar an instance is to its positive and to its nearest negatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_tfcl.diagnostics.figures import new_axes
from keras_tfcl.diagnostics.rows import unit_views
from keras_tfcl.validation import positive_integer

BLOCK = 1024


@dataclass(frozen=True)
class SimilarityProfile:
    """Mean cosines, over all anchors.

    Attributes:
        positive: of an anchor with the other view of its instance.
        nearest: `(k,)`, with its nearest, second nearest, ... negative.
        mean_negative: with all its negatives.
        candidates: number of negatives each anchor had; the nearest of more are nearer.
    """

    positive: float
    nearest: np.ndarray
    mean_negative: float
    candidates: int


def similarity_profile(views: Any, neighbours: int = 10) -> SimilarityProfile:
    """Mean cosine of the positive and of the nearest negatives: figure 8 of Wang and Liu.

    The first view of each instance is an anchor, the second views of all others are its negatives. A small temperature
    leaves a wide gap between the positive and the nearest negative, a large one pulls the positive nearer to 1.

    Args:
        views: embeddings `(N, V, D)` of V >= 2 views of N instances (the first two count), need not be normalised.
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
    rows = unit_views(views)
    anchors, others = rows[:, 0], rows[:, 1]
    count = len(anchors)
    k = min(positive_integer("neighbours", neighbours, "Use neighbours=10, as in the paper."), count - 1)
    positive = np.sum(anchors * others, axis=1)  # (N,)
    nearest, total = np.zeros(k), 0.0
    for start in range(0, count, BLOCK):
        cosines = anchors[start : start + BLOCK] @ others.T  # (block, N)
        own = np.arange(len(cosines))
        total += cosines.sum() - cosines[own, start + own].sum()
        cosines[own, start + own] = -np.inf
        nearest += -np.sort(-np.partition(cosines, count - k, axis=1)[:, count - k :], axis=1).sum(axis=0)
    return SimilarityProfile(
        positive=float(positive.mean()),
        nearest=nearest / count,
        mean_negative=float(total / (count * (count - 1))),
        candidates=count - 1,
    )


def plot_similarity_profile(profiles: Mapping[str, SimilarityProfile], axes: Any = None) -> Any:
    """Draws one line a profile: the positive, then the nearest negatives, as figure 8 of Wang and Liu.

    Args:
        profiles: `SimilarityProfile`s by the name of their line.
        axes: matplotlib axes to draw on. Defaults to new ones.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
    """
    axes = new_axes(axes, "", "mean cosine", "Positive and nearest negatives")
    for label, profile in profiles.items():
        values = [profile.positive, *profile.nearest]
        axes.plot(range(len(values)), values, marker="o", label=label)
    longest = max(len(profile.nearest) for profile in profiles.values())
    axes.set_xticks(range(longest + 1), ["pos", *(f"n{i + 1}" for i in range(longest))])
    axes.legend()
    return axes
