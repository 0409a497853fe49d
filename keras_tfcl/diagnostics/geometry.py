"""Uniformity over the sphere, tolerance within classes, and the spectrum of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl import evaluation
from keras_tfcl.diagnostics.plots import new_axes
from keras_tfcl.evaluation.checks import unit_embeddings
from keras_tfcl.validation import positive_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Spread:
    """Uniformity (0: a point; `uniform_sphere(D, t)`: uniform) and tolerance (mean cosine within a class).

    `tolerance` is NaN without labels, or where no two samples share one. `samples` is the number of samples compared.
    """

    uniformity: float
    tolerance: float
    samples: int


def uniformity_tolerance(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    t: float = 2.0,
    max_samples: int | None = None,
    seed: int = 0,
) -> Spread:
    """Computes uniformity and tolerance over all pairs of samples: equations 10 and 11 of Wang and Liu.

    Uniformity is `-log mean exp(-t |u - v|^2)`, tolerance the mean cosine of pairs with equal labels; a sample is not
    paired with itself. All pairs are visited in float64, in chunks of rows of the similarity matrix. Memory is some
    tens of MB in addition to the embeddings, and time grows with N^2. For large N pass `max_samples`: means over the
    pairs of a random subset are unbiased estimates of the means over all pairs (a U-statistic). The logarithm adds a
    bias of the order of the estimate's relative variance, which is negligible for 10,000 samples.

    Args:
        embeddings: `(N, D)`, one for each sample, need not be normalised.
        labels: `(N,)`. Defaults to None: no tolerance.
        t: width of the kernel, in (0, 20]. Defaults to 2.
        max_samples: largest number of samples; beyond it, a random subset is used. Defaults to None: all.
        seed: of the random subset. Defaults to 0.

    Returns:
        `Spread`.

    Raises:
        ValueError: for another shape, NaN or Inf, labels of another length, `t` out of range, `max_samples` below 2.

    Example:

    >>> keras_tfcl.diagnostics.uniformity_tolerance(np.eye(3), [0, 0, 1])
    Spread(uniformity=4.0, tolerance=0.0, samples=3)

    References: Wang and Isola 2020, arXiv 2005.10242; Wang and Liu 2021, arXiv 2012.09740.
    """
    unit = unit_embeddings(embeddings)
    if unit.ndim == 3:
        raise ValueError(
            f"`embeddings` must be (N, D), one for each sample. Received: shape={unit.shape}. Views of one sample are "
            "not independent: pass one of them, embeddings[:, 0]."
        )
    labels = np.arange(len(unit)) if labels is None else _as_indices(labels, len(unit))
    if max_samples is not None and len(unit) > positive_integer("max_samples", max_samples, "Use 10_000.", least=2):
        chosen = np.random.default_rng(seed).choice(len(unit), max_samples, replace=False)
        unit, labels = unit[chosen], labels[chosen]
    uniformity = evaluation.uniformity(evaluation.gaussian_potential(labels, unit, t=t).value)
    has_pairs = len(np.unique(labels)) < len(labels)
    tolerance = float(evaluation.tolerance(labels, unit).value) if has_pairs else float("nan")
    return Spread(float(uniformity), tolerance, len(unit))


def plot_uniformity_tolerance(
    spreads: Mapping[str, Spread], dimension: int | None = None, axes: Axes | None = None
) -> Axes:
    """Draws `Spread`s by name as points on `axes`, or on new axes, and returns them; good embeddings are high in both.

    `dimension` adds a line at the uniformity of the uniform distribution on the sphere of R^D.

    Example:

    >>> spread = uniformity_tolerance(np.random.default_rng(0).normal(size=(100, 8)), np.arange(100) % 10)
    >>> axes = keras_tfcl.diagnostics.plot_uniformity_tolerance({"untrained": spread}, dimension=8)
    >>> axes.figure.savefig("spread.png")
    """
    axes = new_axes(axes, "uniformity (0: a point)", "tolerance (mean cosine within a class)", "Uniformity, tolerance")
    for name, spread in spreads.items():
        axes.scatter(spread.uniformity, spread.tolerance)
        axes.annotate(name, (spread.uniformity, spread.tolerance), xytext=(4, 4), textcoords="offset points")
    if dimension is not None:
        label = f"uniform sphere, D = {dimension}"
        axes.axvline(evaluation.uniform_sphere(dimension), color="grey", linestyle="--", label=label)
        axes.legend()
    axes.set_xlim(left=0.0)  # so that a collapse is at the top left
    axes.set_ylim(np.nanmin([0.0, *(spread.tolerance for spread in spreads.values())]), 1.05)
    return axes


def singular_spectrum(embeddings: ArrayLike) -> np.ndarray:
    """Computes the singular values of the normalised, centred embeddings, largest first, as shares that sum to 1.

    The effective rank is `exp` of their entropy. Values that drop to zero show a dimensional collapse.

    Args:
        embeddings: `(N, D)` or `(N, V, D)`, need not be normalised.

    Returns:
        float64 `(min(N, D),)`; all 0 if every embedding points in the same direction.

    Raises:
        ValueError: for another shape, NaN or Inf.

    Example:

    >>> keras_tfcl.diagnostics.singular_spectrum([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    array([0.5, 0.5])

    References: Roy and Vetterli 2007 (effective rank); Jing et al. 2022, arXiv 2110.09348 (spectra of collapse).
    """
    unit = unit_embeddings(embeddings)
    unit = unit.reshape(-1, unit.shape[-1])
    sigma = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    coincide = sigma[0] < 1e-5 * np.sqrt(len(unit))
    return np.zeros_like(sigma) if coincide else sigma / sigma.sum()


def plot_singular_spectrum(spectrum: np.ndarray, axes: Axes | None = None) -> Axes:
    """Draws a `singular_spectrum` on a logarithmic axis of `axes`, or on new axes, and returns them.

    Example:

    >>> spectrum = singular_spectrum(np.random.default_rng(0).normal(size=(100, 8)))
    >>> keras_tfcl.diagnostics.plot_singular_spectrum(spectrum).figure.savefig("spectrum.png")
    """
    axes = new_axes(axes, "direction, largest first", "share of the singular values", "Directions in use")
    axes.plot(np.arange(1, len(spectrum) + 1), np.maximum(spectrum, 1e-9), marker=".")
    axes.set_yscale("log")
    return axes


def _as_indices(labels: ArrayLike, count: int) -> np.ndarray:
    labels = np.asarray(labels).reshape(-1)
    if len(labels) != count:
        raise ValueError(
            f"`labels` must have one entry for each sample. Received: {len(labels)} labels, {count} samples. Pass the "
            "labels of `embeddings`, in their order."
        )
    return np.unique(labels, return_inverse=True)[1]
