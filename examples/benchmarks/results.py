"""The results of the benchmarks, as the committed CSV files hold them."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import analysis
import numpy as np
from analysis import INFONCE, Difference, mean_score

RESULTS = Path(__file__).parents[1] / "results"
TASKS = {
    "language_debiasing": "language debiasing",
    "anomaly_detection": "anomaly detection",
    "graph_classification": "graph classification",
    "sequential_recommendation": "sequential recommendation",
    "image_classification": "image classification",
    "image_anomalies": "anomalies among images",
}
ARCTANH = ("arctanh 2", "arctanh 8", "arctanh fisher")
FIXED = ("infonce 0.07", "infonce 0.1", "infonce 0.2", "infonce 0.5")
OTHERS = ("learnable", "pps", "hard 0.3", "reweighted 0.5")
SETTINGS = (*ARCTANH, *INFONCE, *OTHERS)
CANDIDATES = ("centred", "studentised")
TUNED, TRANSFERRED = "tuned τ", "τ tuned on another data set"
LABELS = {
    "arctanh 2": "arctanh, c = 2 (the paper's)",
    "arctanh 8": "arctanh, c = 8",
    "arctanh fisher": "arctanh, c = √(D − 2)",
    **{name: f"τ = {name.split()[1]}" for name in INFONCE},
    "learnable": "learnable τ",
    "pps": "PPS",
    "hard 0.3": "hard negatives, τ = 0.3",
    "reweighted 0.5": "reweighted, τ = 0.5",
    "centred": "arctanh, c = √(D − 2), centred",
    "studentised": "arctanh, studentised",
    TUNED: "τ tuned on validation",
    TRANSFERRED: TRANSFERRED,
}


class Result(NamedTuple):
    """A data set of which all settings are tested with the same seeds.

    Attributes:
        task, dataset, metric: names.
        validation, test: the main metric by setting and seed.
        rows: the rows of training, by setting.
        baselines: the main test metric by name.
        candidates: the main test metric of `CANDIDATES` by name and seed, as far as they are tested.
    """

    task: str
    dataset: str
    metric: str
    validation: dict[str, dict[int, float]]
    test: dict[str, dict[int, float]]
    rows: dict[str, list[dict[str, str]]]
    baselines: dict[str, float]
    candidates: dict[str, dict[int, float]]

    @property
    def tuned(self) -> str:
        return analysis.tuned(self.validation)

    @property
    def seeds(self) -> int:
        return len(self.test[ARCTANH[0]])

    def regret(self, setting: str) -> float:
        return analysis.regret(mean_score(self.test[setting]), self.test)

    def against(self, setting: str, reference: str) -> Difference:
        return analysis.paired(self.test[setting], self.test[reference])

    def hours(self, settings: Iterable[str]) -> float:
        """Training time of all seeds of some settings."""
        return sum(float(row["seconds"]) for setting in settings for row in self.rows[setting]) / 3600


def read(folder: Path) -> list[Result]:
    """The data sets that are complete with one seed at least; only seeds with all settings are taken."""
    found = []
    for task in TASKS:
        trained, tested = (read_rows(folder / f"{task}{suffix}.csv") for suffix in ("", "_test"))
        for dataset in dict.fromkeys(row["dataset"] for row in tested):
            own = [row for row in tested if row["dataset"] == dataset]
            metric = list(own[0])[3]  # dataset, setting, seed, main metric
            test = by_setting(own, metric)
            seeds = set.intersection(*(set(test.get(setting, {})) for setting in SETTINGS))
            if not seeds:
                continue
            rows = [row for row in trained if row["dataset"] == dataset and int(row["seed"]) in seeds]
            grouped = {setting: [row for row in rows if row["setting"] == setting] for setting in SETTINGS}
            test = {setting: {seed: test[setting][seed] for seed in sorted(seeds)} for setting in SETTINGS}
            candidates = by_setting((row for row in own if row["setting"] in CANDIDATES), metric)
            others = [row for row in own if row["setting"] not in (*SETTINGS, *CANDIDATES)]
            baselines = {row["setting"]: float(row[metric]) for row in others}
            found.append(Result(task, dataset, metric, by_setting(rows, metric), test, grouped, baselines, candidates))
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def by_setting(rows: Iterable[dict[str, str]], metric: str) -> dict[str, dict[int, float]]:
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        scores[row["setting"]][int(row["seed"])] = float(row[metric])
    return scores


def regrets(results: Sequence[Result], method: str) -> list[float]:
    """The regret of a method on every data set; a transferred τ has the mean over where it was tuned.

    Of a single data set nothing can be transferred: the list is empty.
    """
    if method == TUNED:
        return [result.regret(result.tuned) for result in results]
    if method == TRANSFERRED:
        others = [[result.regret(other.tuned) for other in results if other is not result] for result in results]
        return [float(np.mean(values)) for values in others if values]
    return [result.regret(method) for result in results]


def decisive(results: Sequence[Result]) -> Sequence[Result]:
    """The data sets on which the temperature matters, or all if there is none."""
    return [result for result in results if analysis.temperature_matters(result.test)] or results


def signed(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])
