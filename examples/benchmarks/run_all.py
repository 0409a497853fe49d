"""Runs all tasks in turn, so that tables are balanced whenever it is stopped: seed 0 of every task, then seed 1, ...

    python examples/benchmarks/run_all.py --minutes 60

The cheap tasks of a seed come first. What has a row is not repeated, so start it again as often as you like. Test
metrics of a task are computed when all its settings are trained with a seed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from results import CANDIDATES

HERE = Path(__file__).parent


class Unit(NamedTuple):
    """A script, and those of its data sets and settings that are run together; None: all of them."""

    script: str
    datasets: tuple[str, ...] | None = None
    settings: tuple[str, ...] | None = None


ROUND = (
    Unit("language_debiasing"),
    Unit("anomaly_detection", ("satellite", "breast_cancer")),
    Unit("graph_classification", ("MUTAG", "PROTEINS")),
    Unit("sequential_recommendation", ("ML-100K",)),
    Unit("image_classification"),
)
SEEDS = range(7)
LATER = (
    *((seed, Unit("anomaly_detection", ("shuttle",))) for seed in SEEDS),  # all settings have an AUROC of 0.998
    *((seed, unit._replace(settings=CANDIDATES)) for seed in SEEDS for unit in ROUND),
    *((seed, Unit("scale_law")) for seed in range(3)),
    *((seed, Unit("image_anomalies")) for seed in SEEDS),
    *((seed, Unit("sequential_recommendation", ("Beauty",))) for seed in SEEDS),
    *((seed, Unit("graph_classification", ("NCI1",))) for seed in SEEDS),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run that would end later")
    end = time.monotonic() + 60 * parser.parse_args().minutes
    for seed, unit in (*((seed, unit) for seed in SEEDS for unit in ROUND), *LATER):
        call(unit, "train", seed, end)
        if unit.script != "scale_law":  # which needs no test set
            call(unit, "test", seed, end)


def call(unit: Unit, command: str, seed: int, end: float) -> None:
    """Runs a command of a task in a process of its own; a failure is logged and stops nothing."""
    minutes = (end - time.monotonic()) / 60
    if minutes <= 0 or not (HERE / f"{unit.script}.py").exists():
        return
    datasets = ["--datasets", *unit.datasets] if unit.datasets else []
    settings = ["--settings", *unit.settings] if unit.settings and command == "train" else []
    arguments = [command, *datasets, *settings, "--seeds", str(seed), "--minutes", f"{minutes:.2f}"]
    done = subprocess.run(
        [sys.executable, str(HERE / f"{unit.script}.py"), *arguments], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        print(f"{unit.script} {command} seed {seed} failed:\n{done.stderr[-2000:]}", flush=True)


if __name__ == "__main__":
    main()
