"""What Wang and Liu 2021 report for CIFAR-10, whether the rows here say the same, and where arctanh lands."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

# Table 1, CIFAR-10: linear accuracy in %, -L_uniformity, tolerance.
PAPER = {
    "infonce 0.07": (79.75, 3.86, 0.04),
    "infonce 0.3": (83.27, 3.60, 0.178),
    "infonce 0.7": (82.69, 3.17, 0.333),
    "infonce 1.0": (82.21, 2.96, 0.372),
    "simple": (74.83, 1.68, 0.61),
    "hard 0.07": (79.2, 3.88, 0.034),
    "hard 0.3": (83.63, 3.89, 0.0267),
    "hard 0.7": (84.19, 3.87, 0.030),
    "hard 1.0": (84.19, 3.86, 0.030),
    "hard-simple": (84.84, 3.85, 0.030),
}


TEMPERATURES = ("0.07", "0.3", "0.7", "1.0")  # those of the paper's table
INFONCE = [f"infonce {t}" for t in ("0.07", "0.1", "0.2", "0.3", "0.5", "0.7", "1.0")]
ENDS = ["infonce 0.07", "infonce 0.3", "infonce 1.0"]  # the fewest temperatures that tell which way a figure moves
ARCTANH = [f"arctanh {c}" for c in ("1", "2", "4", "8", "11.31")]  # 11.31: the square root of 128 dimensions


@dataclass(frozen=True)
class Summary:
    """A number for each seed, shown as their mean ± standard deviation."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    @property
    def deviation(self) -> float:
        """Over seeds; of one seed: 0."""
        return statistics.stdev(self.by_seed.values()) if self.seeds > 1 else 0.0

    @property
    def seeds(self) -> int:
        return len(self.by_seed)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.deviation:.3f}" if self.seeds > 1 else f"{self.mean:.3f}"

    def __lt__(self, other: Summary) -> bool:
        return self.mean < other.mean

    def __sub__(self, other: Summary) -> Summary:
        """By seed: runs of one seed share initial weights, order and views, and much of their luck."""
        both = self.by_seed.keys() & other.by_seed.keys()
        return Summary({seed: self.by_seed[seed] - other.by_seed[seed] for seed in sorted(both)})

    def __abs__(self) -> Summary:
        return self.times(-1.0) if self.mean < 0 else self

    def times(self, factor: float) -> Summary:
        return Summary({seed: factor * value for seed, value in self.by_seed.items()})


Results = dict[str, dict[str, Summary]]
Judgement = tuple[str, list[Summary]]  # what is seen here, and differences that are above 0 if the claim holds


class Finding(NamedTuple):
    """A claim, the figures here that bear on it, and "yes", "no" or "unclear"."""

    claim: str
    here: str
    holds: str


def findings(results: Results) -> list[Finding]:
    """The claims whose settings are all among `results`.

    One holds if each difference it rests on, taken by seed, exceeds its standard deviation, and fails if one is below
    minus that; else, and with one seed, it is unclear.
    """
    judged = [(claim, *judge(results)) for claim, needed, judge in CLAIMS if set(needed) <= set(results)]
    return [Finding(claim, here, verdict(differences)) for claim, here, differences in judged]


def verdict(differences: list[Summary]) -> str:
    if any(d.seeds < 2 for d in differences):
        return "unclear"
    if all(d.mean > d.deviation for d in differences):
        return "yes"
    return "no" if any(d.mean < -d.deviation for d in differences) else "unclear"


def moves(results: Results, column: str, rises: bool) -> Judgement:
    values = along(results, "infonce", column)
    return listed(values), falls([*values.values()][:: -1 if rises else 1])


def best_between(results: Results) -> Judgement:
    first, *inner, last = (name for name in INFONCE if name in results)
    best = best_of(results, inner)
    least, value, most = (results[name]["linear_accuracy"] for name in (first, best, last))
    return f"best between: {best}, {value}; at 0.07 {least}, at 1.0 {most}", [value - least, value - most]


def gap_narrows(results: Results) -> Judgement:
    positive, nearest = (along(results, "infonce", column) for column in ("positive", "n1"))
    gaps = {temperature: positive[temperature] - nearest[temperature] for temperature in positive}
    return listed(gaps), falls([*gaps.values()])


def hard_is_flat(results: Results, column: str) -> Judgement:
    ordinary, hard = (along(results, kind, column) for kind in ("infonce", "hard"))
    spans = [max(values.values()) - min(values.values()) for values in (ordinary, hard)]
    return f"range {spans[1]}, with all negatives {spans[0]}", [spans[0] - spans[1].times(2)]  # at most half


def hard_is_better_at_one(results: Results) -> Judgement:
    return compared(results, "hard 1.0", "infonce 1.0")


def simple_is_worst(results: Results) -> Judgement:
    worst = min(INFONCE, key=lambda name: results[name]["linear_accuracy"])
    return compared(results, worst, "simple")


def hard_mends_simple(results: Results) -> Judgement:
    return compared(results, "hard-simple", "simple")


def arctanh_beats_the_best(results: Results, scale: str | None) -> Judgement:
    """The given scale, or the best one, against the best temperature."""
    arctanh = best_of(results, ARCTANH) if scale is None else f"arctanh {scale}"
    return compared(results, arctanh, best_of(results, INFONCE))


def scale_hides_temperature(results: Results, column: str) -> Judgement:
    """Whether arctanh departs from InfoNCE at temperature 1 / scale by at most half of what its scale changes."""
    values = [results[name][column] for name in ARCTANH]
    departures = [value - at_temperature_of(results, name, column) for name, value in zip(ARCTANH, values, strict=True)]
    span = max(values) - min(values)
    here = f"arctanh - InfoNCE at scale 1, 2, 4, 8, 11.31: {', '.join(map(str, departures))}; over scales: {span}"
    return here, [span - size.times(2) for size in map(abs, departures)]


def at_temperature_of(results: Results, arctanh: str, column: str) -> Summary:
    """InfoNCE at temperature 1 / scale of an arctanh setting, between two measured ones linear in the logarithm."""
    place = -math.log(float(arctanh.rpartition(" ")[2]))
    places = [math.log(float(name.rpartition(" ")[2])) for name in INFONCE]
    above = next(i for i in range(1, len(places)) if places[i] >= place - 1e-9)
    share = (place - places[above - 1]) / (places[above] - places[above - 1])
    low, high = (results[INFONCE[i]][column] for i in (above - 1, above))
    return low - (low - high).times(share)


CLAIMS: list[tuple[str, list[str], Callable[[Results], Judgement]]] = [
    ("uniformity falls as the temperature grows", ENDS, partial(moves, column="uniformity", rises=False)),
    ("tolerance rises as the temperature grows", ENDS, partial(moves, column="tolerance", rises=True)),
    ("accuracy is best at a temperature between the extremes (there 0.2 to 0.3)", ENDS, best_between),
    ("the gap between positive and nearest negative narrows as the temperature grows", ENDS, gap_narrows),
    (
        "with hard negatives uniformity depends on the temperature less than half as much",
        [*ENDS, "hard 0.07", "hard 1.0"],
        partial(hard_is_flat, column="uniformity"),
    ),
    (
        "with hard negatives accuracy depends on the temperature less than half as much",
        [*ENDS, "hard 0.07", "hard 1.0"],
        partial(hard_is_flat, column="linear_accuracy"),
    ),
    ("at temperature 1 hard negatives are more accurate than all", ["infonce 1.0", "hard 1.0"], hard_is_better_at_one),
    ("the simple loss is the least accurate", [*INFONCE, "simple"], simple_is_worst),
    ("hard negatives mend the simple loss", ["simple", "hard-simple"], hard_mends_simple),
    (
        "not in the paper: arctanh with scale 2, untuned, beats the best temperature",
        [*INFONCE, *ARCTANH],
        partial(arctanh_beats_the_best, scale="2"),
    ),
    (
        "not in the paper: arctanh with the root of D as scale, untuned, beats the best temperature",
        [*INFONCE, *ARCTANH],
        partial(arctanh_beats_the_best, scale="11.31"),
    ),
    (
        "not in the paper: arctanh with the best of five scales beats the best of seven temperatures",
        [*INFONCE, *ARCTANH],
        partial(arctanh_beats_the_best, scale=None),
    ),
    (
        "not in the paper: arctanh's scale is a temperature in hiding, by uniformity",
        [*INFONCE, *ARCTANH],
        partial(scale_hides_temperature, column="uniformity"),
    ),
    (
        "not in the paper: arctanh's scale is a temperature in hiding, by accuracy",
        [*INFONCE, *ARCTANH],
        partial(scale_hides_temperature, column="linear_accuracy"),
    ),
]


def best_of(results: Results, names: list[str]) -> str:
    return max(names, key=lambda name: results[name]["linear_accuracy"])


def compared(results: Results, better: str, worse: str) -> Judgement:
    """Linear accuracies of two settings, the first above the second if the claim holds."""
    first, second = (results[name]["linear_accuracy"] for name in (better, worse))
    return f"{better}: {first}; {worse}: {second}; by seed {first - second}", [first - second]


def along(results: Results, kind: str, column: str) -> dict[str, Summary]:
    """A column by those of the paper's temperatures that were measured."""
    return {t: results[f"{kind} {t}"][column] for t in TEMPERATURES if f"{kind} {t}" in results}


def listed(values: Mapping[str, Summary]) -> str:
    return f"{', '.join(values)}: {', '.join(str(value) for value in values.values())}"


def falls(values: list[Summary]) -> list[Summary]:
    return [a - b for a, b in pairwise(values)]
