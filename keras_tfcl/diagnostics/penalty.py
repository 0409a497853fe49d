"""The distribution of a loss's repulsion over the negatives of an anchor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl import scaling as scaling_module
from keras_tfcl.diagnostics.plots import new_axes, scaling_name
from keras_tfcl.evaluation.health import logits_and_derivatives
from keras_tfcl.scaling import Scaling
from keras_tfcl.validation import positive_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def relative_penalty(similarities: ArrayLike, scaling: float | str | Scaling = 0.1) -> np.ndarray:
    """Computes each negative's share of the repulsion: its gradient divided by the sum of all negatives' gradients.

    Formula: `r_j = e^(l_j) l'(s_j) / sum_k e^(l_k) l'(s_k)` with logits l of the cosines s. For a temperature t that is
    the Boltzmann share `e^(s_j/t) / sum_k e^(s_k/t)` of Wang and Liu (eq. 5), the ratio of the negative's gradient to
    the positive's; for other scalings the positive's gradient is not the negatives' sum, and r is the share.

    Args:
        similarities: cosines of the negatives, `(..., M)`; the last axis holds the negatives of one anchor.
        scaling: a temperature, `"arctanh"`, or a `keras_tfcl.Scaling`. Defaults to 0.1.

    Returns:
        float64 `(..., M)`; the last axis sums to 1.

    Raises:
        ValueError: for cosines outside [-1, 1] or an unknown scaling.

    Example:

    >>> keras_tfcl.diagnostics.relative_penalty([0.5, 0.0, -0.5], 0.5).round(3)
    array([0.665, 0.245, 0.09 ])

    Reference: Wang and Liu 2021, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740.
    """
    similarities = _cosines(similarities)
    logits, derivatives = logits_and_derivatives(similarities, scaling_module.get(scaling))
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True)) * derivatives
    return weight / weight.sum(axis=-1, keepdims=True)


def entropy_of_penalty(similarities: ArrayLike, scaling: float | str | Scaling = 0.1) -> np.ndarray:
    """Computes the entropy in nats of each anchor's relative penalty; its `exp` is the number of negatives that matter.

    It lies between 0 (one negative has the whole share) and log M (all shares are equal). It falls strictly with the
    temperature, unless all cosines are equal.

    Args:
        similarities: as in `relative_penalty`.
        scaling: as in `relative_penalty`.

    Returns:
        float64 `(...)`.

    Example:

    >>> float(np.exp(keras_tfcl.diagnostics.entropy_of_penalty([0.3, 0.3, 0.3, 0.3])).round(6))
    4.0
    """
    share = relative_penalty(similarities, scaling)
    return -np.sum(np.where(share > 0, share * np.log(np.where(share > 0, share, 1.0)), 0.0), axis=-1)


@dataclass(frozen=True)
class PenaltyCurve:
    """The relative penalty times the number of negatives, for negatives uniformly spaced over the cosines [-1, 1].

    Attributes:
        label: of the scaling.
        similarity: `(M,)` cosines.
        times_mean: `(M,)`, 1 for a negative with the mean share.
        share_that_matters: `exp(entropy) / M`, in (0, 1].
    """

    label: str
    similarity: np.ndarray
    times_mean: np.ndarray
    share_that_matters: float


def penalty_curves(
    scalings: Sequence[float | str | Scaling] = (0.07, 0.3, 0.7, 1.0, "arctanh"), negatives: int = 2001
) -> list[PenaltyCurve]:
    """Computes the relative penalty of uniformly spaced negatives for each scaling: figure 3 of Wang and Liu.

    For a temperature t the peak, at cosine 1, tends to `(2/t) / (1 - e^(-2/t))` as the negatives grow in number.

    Args:
        scalings: temperatures, `"arctanh"`, or `keras_tfcl.Scaling`s.
        negatives: M, at least 1. Defaults to 2001.

    Returns:
        A list of `PenaltyCurve`.

    Example:

    >>> round(float(penalty_curves([0.3], negatives=20_001)[0].times_mean.max()), 1)
    6.7
    """
    count = positive_integer("negatives", negatives, "Use negatives=2001.")
    cosines = -1 + 2 * (np.arange(count) + 0.5) / count  # midpoints: the pole at 1 is no cosine of a curve
    shares = [relative_penalty(cosines, scaling) for scaling in scalings]
    entropies = [entropy_of_penalty(cosines, scaling) for scaling in scalings]
    return [
        PenaltyCurve(scaling_name(scaling), cosines, share * count, float(np.exp(entropy) / count))
        for scaling, share, entropy in zip(scalings, shares, entropies, strict=True)
    ]


def plot_relative_penalty(curves: Sequence[PenaltyCurve], axes: Axes | None = None) -> Axes:
    """Draws `penalty_curves` on `axes`, or on new axes, and returns them; figure 3 of Wang and Liu.

    Example:

    >>> curves = keras_tfcl.diagnostics.penalty_curves([0.1, 0.5, "arctanh"])
    >>> keras_tfcl.diagnostics.plot_relative_penalty(curves).figure.savefig("penalty.png")
    """
    axes = new_axes(axes, "cosine of the negative", "penalty / mean penalty", "Relative penalty of a negative")
    for curve in curves:
        axes.plot(curve.similarity, curve.times_mean, label=curve.label)
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 1e3)
    axes.legend()
    return axes


def plot_entropy_of_penalty(curves: Sequence[PenaltyCurve], axes: Axes | None = None) -> Axes:
    """Draws the share of negatives that matters as bars on `axes`, or on new axes, and returns them.

    Example:

    >>> curves = keras_tfcl.diagnostics.penalty_curves([0.1, 0.5, "arctanh"])
    >>> keras_tfcl.diagnostics.plot_entropy_of_penalty(curves).figure.savefig("negatives.png")
    """
    axes = new_axes(axes, "scaling", "exp(entropy) / negatives", "Share of the negatives that matters")
    axes.bar([curve.label for curve in curves], [curve.share_that_matters for curve in curves])
    return axes


def _cosines(similarities: ArrayLike) -> np.ndarray:
    similarities = np.asarray(similarities, "float64")
    if similarities.ndim == 0 or similarities.size == 0 or not np.all(np.abs(similarities) <= 1 + 1e-6):
        raise ValueError(
            "`similarities` must be cosines in [-1, 1], `(..., M)` of the M negatives of each anchor. Received: "
            f"shape={similarities.shape}, largest size {np.abs(similarities).max(initial=0)}. Normalise embeddings "
            "before multiplying them."
        )
    return similarities
