"""Times training steps, each library in fresh processes: `python examples/speed/training.py`.

The same ResNet-18 for 32 x 32 images, batch, loss and optimizer: `fit` of ContrastiveModel on ready-made views, `fit`
that makes the views, a hand-written `tf.function` loop, and torch with lightly's loss (`--peers PYTHON`).
Rounds alternate between libraries, so that a slow minute of the machine hits all of them; ratios are those within a
round. Writes examples/results/speed_training.csv and .md (`--output speed_training_gpu` on a GPU).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from losses import RESULTS, replaced

LOOP = "hand-written tf.function loop"
# name: (worker, its mode, interpreter)
BASELINES = {
    LOOP: ("training_keras.py", "loop", "own"),
    "fit, ready-made views": ("training_keras.py", "fit", "own"),
    "fit, views made while training": ("training_keras.py", "augmented", "own"),
    "torch, lightly's NTXentLoss": ("training_torch.py", "loop", "peers"),
}
FIELDS = [
    "name", "xla", "round", "images_per_second", "seconds", "low", "high", "first", "ratio", "parameters", "device",
    "note",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="Python interpreter with torch and lightly")
    parser.add_argument("--batch", type=int, default=128, help="images; each makes two views")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage: 64 is ResNet-18")
    parser.add_argument("--steps", type=int, default=10, help="timed steps in a round, after one to warm up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="speed_training", help="the name of both files of results")
    parser.add_argument("--xla", nargs="+", default=["on", "off"], choices=["on", "off"])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number in range(options.rounds):
        for xla in options.xla:
            first = xla == options.xla[0]  # torch has no XLA to switch
            measured = [measure(name, xla, options) for name in BASELINES if first or not name.startswith("torch")]
            loop = next(row for row in measured if row["name"] == LOOP)
            for row in measured:
                if row["seconds"] != "" and loop["seconds"] != "":
                    row["ratio"] = round(row["seconds"] / loop["seconds"], 3)
                rows.append(row | {"round": number + 1})
                print(*(f"{key}={value}" for key, value in rows[-1].items() if value != ""), flush=True)
            write(rows, options)


def measure(name: str, xla: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs one worker; a failure becomes a note."""
    script, mode, where = BASELINES[name]
    row = dict.fromkeys(FIELDS, "") | {"name": name, "xla": "" if where == "peers" else xla}
    if where == "peers" and options.peers is None:
        return row | {"note": "left out: no --peers"}
    command = [sys.executable if where == "own" else options.peers, str(Path(__file__).with_name(script)), mode, xla]
    sizes = [str(size) for size in (options.batch, options.width, options.steps)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return row | {"note": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:100]}
    result = json.loads(done.stdout.strip().splitlines()[-1])
    times = result["times"]
    seconds = statistics.median(times)
    return row | {
        "images_per_second": float(f"{options.batch / seconds:.4g}"),
        **{
            key: float(f"{value:.4g}")
            for key, value in zip(("seconds", "low", "high"), (seconds, min(times), max(times)), strict=True)
        },
        "first": float(f"{result['first']:.3g}"),
        "parameters": result["parameters"],
        "device": result.get("device", ""),
    }


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    RESULTS.mkdir(exist_ok=True)
    with replaced(RESULTS / f"{options.output}.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    with replaced(RESULTS / f"{options.output}.md") as path:
        path.write_text(markdown(rows, options))


def markdown(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """One line for each library: medians over the rounds."""
    device = next((row["device"] for row in rows if row["device"]), "an unknown device")
    lines = [
        f"ResNet-18 (first stage {options.width} channels), two views of {options.batch} images of 32 x 32, float32, "
        f"{device}; medians of {options.rounds} rounds of {options.steps} steps. "
        "Ratio: seconds a step against the hand-written loop of the same round, lowest to highest.",
        "",
        "| what | XLA | images a second | seconds a step | ratio | parameters |",
        "|---|---|---|---|---|---|",
    ]
    for name, xla in dict.fromkeys((row["name"], row["xla"]) for row in rows):
        same = [row for row in rows if (row["name"], row["xla"]) == (name, xla)]
        timed = [row for row in same if row["seconds"] != ""]
        if not timed:
            lines.append(f"| {name} | {xla} | {same[0]['note']} | | | |")
            continue
        speed, seconds = (statistics.median(row[key] for row in timed) for key in ("images_per_second", "seconds"))
        ratios = sorted(row["ratio"] for row in timed if row["ratio"] != "")
        spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})" if ratios else ""
        lines.append(f"| {name} | {xla} | {speed:.4g} | {seconds:.4g} | {spread} | {timed[0]['parameters']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
