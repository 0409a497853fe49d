"""How evenly embeddings spread over the sphere, and how close each class stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_tfcl.diagnostics.figures import new_axes
from keras_tfcl.diagnostics.rows import unit_rows
from keras_tfcl.validation import positive_integer, positive_number

BLOCK = 2048


@dataclass(frozen=True)
class Spread:
    """Uniformity (0: a point; `uniform_sphere(D, t)`: evenly spread) and tolerance (mean cosine within a class).

    `tolerance` is NaN without labels, or where no two rows share one. `rows` is the number of rows that were compared.
    """

    uniformity: float
    tolerance: float
    rows: int


def uniformity_tolerance(
    embeddings: Any, labels: Any = None, t: float = 2.0, most: int | None = None, seed: int = 0
) -> Spread:
    """Uniformity and tolerance over all pairs of rows, exactly: equations 10 and 11 of Wang and Liu.

    Uniformity is `-log mean exp(-t |u - v|^2)`, tolerance the mean cosine of pairs with equal labels; a row is not
    paired with itself. All N (N - 1) / 2 pairs are visited in tiles of 2048 x 2048: memory stays at a few times
    32 MB, time grows with N^2 (about 2 s for 10,000 rows of 128 on one core; hours for a million). For large N give
    `most`: means over the pairs of a random subset of rows are unbiased estimates of the means over all pairs (a
    U-statistic); the logarithm adds a bias of the order of the estimate's relative variance, which is negligible for
    10,000 rows.

    Args:
        embeddings: `(N, D)`, one row an instance, need not be normalised.
        labels: integers `(N,)`. Defaults to None: no tolerance.
        t: width of the kernel. Defaults to 2.
        most: largest number of rows; more are drawn from at random. Defaults to None: all.
        seed: of that draw. Defaults to 0.

    Returns:
        `Spread`.

    Raises:
        ValueError: for another shape, NaN or Inf, labels of another length, `t` not positive, `most` below 2.

    Example:

    >>> keras_tfcl.diagnostics.uniformity_tolerance(np.eye(3), [0, 0, 1])
    Spread(uniformity=4.0, tolerance=0.0, rows=3)

    References: Wang and Isola 2020, arXiv 2005.10242; Wang and Liu 2021, arXiv 2012.09740.
    """
    positive_number("t", t, "Use t=2.0, as in the paper.")
    rows = _one_row_each(embeddings)
    labels = np.arange(len(rows)) if labels is None else _checked_labels(labels, len(rows))
    if most is not None and len(rows) > positive_integer("most", most, "Use most=10_000.", least=2):
        chosen = np.random.default_rng(seed).choice(len(rows), most, replace=False)
        rows, labels = rows[chosen], labels[chosen]
    squared_length = np.sum(rows**2, axis=1)  # 1, or 0 for a zero row
    kernel = cosine = 0.0
    same = 0
    for tile, other, pairs in _tiles(len(rows)):
        cosines = rows[tile] @ rows[other].T
        distance = squared_length[tile, None] + squared_length[None, other] - 2 * cosines
        equal = pairs & (labels[tile, None] == labels[None, other])
        kernel += np.exp(-t * np.maximum(distance, 0.0))[pairs].sum()
        cosine += cosines[equal].sum()
        same += int(equal.sum())
    mean = kernel / (len(rows) * (len(rows) - 1) / 2)
    return Spread(float(np.log(1 / mean)), float(cosine / same) if same else float("nan"), len(rows))


def uniform_sphere(dimension: int, t: float = 2.0) -> float:
    """The uniformity of embeddings spread evenly over the sphere of R^D: `2 t - log 0F1(; D/2; t^2)`.

    Example:

    >>> round(uniform_sphere(128), 3)
    3.938
    """
    term = total = 1.0
    for k in range(1, 200):  # the series converges within a few terms for any useful t
        term *= t**2 / (k * (dimension / 2 + k - 1))
        total += term
    return float(2 * t - np.log(total))


def plot_uniformity_tolerance(spreads: Mapping[str, Spread], dimension: int | None = None, axes: Any = None) -> Any:
    """Draws one point a name, uniformity against tolerance; good embeddings are high in both.

    Args:
        spreads: `Spread`s by name.
        dimension: D, for a line at what evenly spread embeddings have. Defaults to None: no line.
        axes: matplotlib axes to draw on. Defaults to new ones.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
    """
    axes = new_axes(axes, "uniformity (0: a point)", "tolerance (mean cosine within a class)", "Uniformity, tolerance")
    for name, spread in spreads.items():
        axes.scatter(spread.uniformity, spread.tolerance)
        axes.annotate(name, (spread.uniformity, spread.tolerance), xytext=(4, 4), textcoords="offset points")
    if dimension is not None:
        axes.axvline(uniform_sphere(dimension), color="grey", linestyle="--", label=f"even sphere, D = {dimension}")
        axes.legend()
    axes.set_xlim(left=0.0)  # so that a collapse is at the top left
    axes.set_ylim(np.nanmin([0.0, *(spread.tolerance for spread in spreads.values())]), 1.05)
    return axes


def _one_row_each(embeddings: Any) -> np.ndarray:
    rows = unit_rows(embeddings)
    if rows.ndim == 3:
        raise ValueError(
            f"`embeddings` must be (N, D), one row an instance. Received: shape={rows.shape}. Views of one instance "
            "are no independent samples: pass one of them, embeddings[:, 0]."
        )
    return rows


def _checked_labels(labels: Any, count: int) -> np.ndarray:
    labels = np.asarray(labels).reshape(-1)
    if len(labels) != count:
        raise ValueError(f"`labels` must have one entry for each row. Received: {len(labels)} labels, {count} rows.")
    return labels


def _tiles(count: int) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Slices of rows and columns that cover every unordered pair once, with the mask of those pairs."""
    for start in range(0, count, BLOCK):
        for other in range(start, count, BLOCK):
            shape = min(BLOCK, count - start), min(BLOCK, count - other)
            pairs = np.ones(shape, bool)
            yield (
                slice(start, start + BLOCK),
                slice(other, other + BLOCK),
                np.triu(pairs, 1) if other == start else pairs,
            )
