"""The statistics that protocol.md fixes, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

MARGIN = 0.01
DRAWS = 10_000

Scores = Mapping[int, float]  # by seed
TEMPERATURES = ("0.05", "0.07", "0.1", "0.2", "0.3", "0.5", "1.0")
INFONCE = tuple(f"infonce {temperature}" for temperature in TEMPERATURES)


class Difference(NamedTuple):
    """Paired differences over seeds, with the two-sided 95 % t interval of their mean; NaN for a single seed."""

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        """The strongest statement that the interval allows."""
        if self.low > 0:
            return "better"
        if self.high < 0 and self.low > -MARGIN:
            return "worse, within the margin"
        if self.high < 0:
            return "worse"
        if self.low > -MARGIN:
            return "equivalent" if self.high < MARGIN else "not inferior"
        return "open"

    @property
    def outcome(self) -> str:
        """Win, tie or loss by the margin."""
        return "win" if self.mean > MARGIN else "loss" if self.mean < -MARGIN else "tie"


def paired(method: Scores, reference: Scores) -> Difference:
    """Method minus reference over the seeds that both have."""
    seeds = sorted(set(method) & set(reference))
    values = np.array([method[seed] - reference[seed] for seed in seeds])
    mean = float(values.mean())
    if len(values) < 2:
        return Difference(mean, math.nan, math.nan, math.nan, len(values))
    deviation = float(values.std(ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Difference(mean, deviation, mean - half, mean + half, len(values))


def mean_score(scores: Scores) -> float:
    return float(np.mean(list(scores.values())))


def tuned(validation: Mapping[str, Scores]) -> str:
    """The temperature with the best mean validation score; of equal ones the smallest."""
    return max(INFONCE, key=lambda setting: mean_score(validation[setting]))


def regret(value: float, test: Mapping[str, Scores]) -> float:
    """0 for the best of the seven temperatures, 1 for the worst."""
    means = [mean_score(test[setting]) for setting in INFONCE]
    return (max(means) - value) / (max(means) - min(means))


def temperature_matters(test: Mapping[str, Scores]) -> bool:
    """Whether the best and the worst temperature differ by the margin at least."""
    means = [mean_score(test[setting]) for setting in INFONCE]
    return max(means) - min(means) >= MARGIN


def bootstrap_interval(differences: Sequence[float], draws: int = DRAWS) -> tuple[float, float]:
    """The 95 % percentile interval of a mean over data sets, which are drawn with replacement."""
    values = np.asarray(differences, "float64")
    drawn = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def best_scale(scores: Mapping[float, float]) -> float:
    """The vertex of a parabola in log(scale) through the best scale and its neighbours; at an end, that end."""
    scales = sorted(scores)
    best = max(range(len(scales)), key=lambda i: scores[scales[i]])
    if best in (0, len(scales) - 1):
        return scales[best]
    x = np.log(scales[best - 1 : best + 2])
    a, b, _ = np.polyfit(x, [scores[scale] for scale in scales[best - 1 : best + 2]], 2)
    return float(np.exp(-b / (2 * a)))


def slope(dimensions: Sequence[int], best: np.ndarray, draws: int = DRAWS) -> tuple[float, float, float]:
    """The slope of log c* on log D, and its 95 % interval by bootstrap over dimensions and seeds.

    Args:
        dimensions: E of them.
        best: c*, `(E, S)` for S seeds.
        draws: of the bootstrap.
    """
    x, y = np.log(np.asarray(dimensions, "float64")), np.log(best)
    rng, slopes = np.random.default_rng(0), []
    count, seeds = y.shape
    while len(slopes) < draws:
        rows = rng.integers(0, count, count)
        if len(set(rows.tolist())) > 1:  # a line needs two dimensions
            columns = rng.integers(0, seeds, (count, seeds))
            slopes.append(_slope(x[rows], np.take_along_axis(y[rows], columns, axis=1)))
    low, high = np.percentile(slopes, [2.5, 97.5])
    return _slope(x, y), float(low), float(high)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    centred = x - x.mean()
    return float((centred @ y.mean(axis=1)) / (centred @ centred))
