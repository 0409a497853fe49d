"""What Wang and Liu 2021 report for CIFAR-10, and whether the rows here say the same."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

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
HARD = [f"hard {t}" for t in TEMPERATURES]

Mean = Callable[[str, str], float]  # of a setting's column, over seeds


class Finding(NamedTuple):
    """A claim of the paper, the figures here that bear on it, and whether they agree."""

    claim: str
    here: str
    holds: bool


def findings(results: dict[str, dict[str, Any]]) -> list[Finding]:
    """The claims whose settings are all among `results`; judged by means over seeds."""

    def mean(setting: str, column: str) -> float:
        return results[setting][column].mean

    return [Finding(claim, *judge(mean)) for claim, needed, judge in CLAIMS if set(needed) <= set(results)]


def uniformity_falls(mean: Mean) -> tuple[str, bool]:
    values = along(mean, "infonce", "uniformity")
    return listed(values), falls(values)


def tolerance_rises(mean: Mean) -> tuple[str, bool]:
    values = along(mean, "infonce", "tolerance")
    return listed(values), falls(values[::-1])


def best_between(mean: Mean) -> tuple[str, bool]:
    accuracy = {name: mean(name, "linear_accuracy") for name in INFONCE}
    best, first, last = max(accuracy, key=accuracy.__getitem__), INFONCE[0], INFONCE[-1]
    here = f"best: {best}, {accuracy[best]:.3f}; at 0.07 {accuracy[first]:.3f}, at 1.0 {accuracy[last]:.3f}"
    return here, best not in (first, last)


def gap_narrows(mean: Mean) -> tuple[str, bool]:
    gaps = [mean(f"infonce {t}", "positive") - mean(f"infonce {t}", "n1") for t in TEMPERATURES]
    return listed(gaps), falls(gaps)


def hard_is_flat(mean: Mean) -> tuple[str, bool]:
    ordinary, hard = (along(mean, kind, "uniformity") for kind in ("infonce", "hard"))
    spans = max(ordinary) - min(ordinary), max(hard) - min(hard)
    return f"range {spans[1]:.3f}, with all negatives {spans[0]:.3f}", spans[1] < spans[0] / 2


def hard_is_better_at_one(mean: Mean) -> tuple[str, bool]:
    ordinary, hard = (mean(name, "linear_accuracy") for name in ("infonce 1.0", "hard 1.0"))
    return f"{hard:.3f} against {ordinary:.3f}", hard > ordinary


def simple_is_worst(mean: Mean) -> tuple[str, bool]:
    simple, worst = mean("simple", "linear_accuracy"), min(mean(name, "linear_accuracy") for name in INFONCE)
    return f"{simple:.3f}; the worst InfoNCE {worst:.3f}", simple < worst


def hard_mends_simple(mean: Mean) -> tuple[str, bool]:
    simple, mined = (mean(name, "linear_accuracy") for name in ("simple", "hard-simple"))
    return f"{mined:.3f} against {simple:.3f}", mined > simple


CLAIMS = [
    ("uniformity falls as the temperature grows", INFONCE, uniformity_falls),
    ("tolerance rises as the temperature grows", INFONCE, tolerance_rises),
    ("accuracy is best at a temperature between the extremes (there 0.2 to 0.3)", INFONCE, best_between),
    ("the gap between positive and nearest negative narrows as the temperature grows", INFONCE, gap_narrows),
    ("with hard negatives uniformity hardly depends on the temperature", INFONCE + HARD, hard_is_flat),
    ("at temperature 1 hard negatives are more accurate than all", INFONCE + HARD, hard_is_better_at_one),
    ("the simple loss is the least accurate", [*INFONCE, "simple"], simple_is_worst),
    ("hard negatives mend the simple loss", ["simple", "hard-simple"], hard_mends_simple),
]


def along(mean: Mean, kind: str, column: str) -> list[float]:
    """A column's means by the paper's temperatures."""
    return [mean(f"{kind} {t}", column) for t in TEMPERATURES]


def listed(values: list[float]) -> str:
    return "0.07, 0.3, 0.7, 1.0: " + ", ".join(f"{value:.3f}" for value in values)


def falls(values: list[float]) -> bool:
    return all(a > b for a, b in pairwise(values))
