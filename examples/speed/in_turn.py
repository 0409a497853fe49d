"""Times this library's losses in turn in one process: `python examples/speed/in_turn.py`.

On a machine that does other work, seconds drift between processes. Here every round runs every loss once, and what
counts is the ratio to InfoNCE. Writes examples/results/speed_in_turn.csv and .md.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from baselines import BASELINES, FLOOR, OWN
from losses import replaced

RESULTS = Path(__file__).parents[1] / "results"
REFERENCE = "keras_tfcl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--names", nargs="+", default=[*OWN, FLOOR, "TensorFlow dense (XLA)"], choices=list(BASELINES))
    parser.add_argument("--minutes", type=float, default=4, help="for all rounds and all compilations")
    arguments = parser.parse_args()
    names = [REFERENCE, *(name for name in arguments.names if name != REFERENCE)]
    rows = []
    for dimension in arguments.dimensions:
        times, processor = measure(
            names, arguments.pairs, dimension, 60 * arguments.minutes / len(arguments.dimensions)
        )
        for name in names:
            ratios = [a / b for a, b in zip(times[name], times[REFERENCE], strict=True)]
            rows.append(
                {
                    "name": name,
                    "N": arguments.pairs,
                    "D": dimension,
                    "rounds": len(ratios),
                    "seconds": f"{min(times[name]):.4f}",
                    "ratio": f"{min(times[name]) / min(times[REFERENCE]):.3f}",
                    "ratio_median": f"{statistics.median(ratios):.3f}",
                    "ratio_low": f"{min(ratios):.3f}",
                    "ratio_high": f"{max(ratios):.3f}",
                    "processor_ratio": f"{min(processor[name]) / min(processor[REFERENCE]):.3f}",
                }
            )
            print(*rows[-1].values(), flush=True)
        write(rows)


def measure(
    names: list[str], count: int, dimension: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds and processor seconds of each call, three rounds at least."""
    end = time.monotonic() + seconds
    views = np.random.default_rng(0).normal(size=(count, 2, dimension)).astype("float32")
    views[:, 1] += views[:, 0]
    calls = {name: BASELINES[name][0](views, **BASELINES[name][1]) for name in names}
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in names}
    processor: dict[str, list[float]] = {name: [] for name in names}
    while time.monotonic() < end or len(times[names[-1]]) < 3:
        for name, call in calls.items():
            start, used = time.perf_counter(), time.process_time()
            call()
            times[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - used)
    return times, processor


def write(rows: list[dict[str, object]]) -> None:
    with replaced(RESULTS / "speed_in_turn.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines = [
        "Value and gradient, float32, compiled by XLA, all in turn in one process: the shortest call, its ratio to "
        "InfoNCE's shortest, the ratio within a round (median, lowest to highest), and that of the shortest processor "
        f"time. {os.cpu_count()} cores of {platform.machine()}, TensorFlow {tf.__version__}, seed 0.",
        "",
        "| what | N | D | rounds | seconds | ratio | within a round | of processor time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        within = f"{r['ratio_median']} ({r['ratio_low']} to {r['ratio_high']})"
        cells = [r["name"], r["N"], r["D"], r["rounds"], r["seconds"], r["ratio"], within, r["processor_ratio"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    with replaced(RESULTS / "speed_in_turn.md") as path:
        path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
