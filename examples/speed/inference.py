"""Times `OnnxEncoder` beside Keras, TensorFlow and torch: `python examples/speed/inference.py`.

Each measurement has a fresh process. Writes examples/results/speed_inference.csv and .md after each. Torch runs in the
environment given by `--peers` (`make bench` builds it); without it, torch is left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from inference_models import MODELS
from inference_worker import BASELINES

RESULTS = Path(__file__).parents[1] / "results"
FIELDS = [
    "model", "batch", "name", "rows_per_second", "low", "high", "against_predict", "load", "MiB", "working_MiB",
    "first", "difference", "note",
]  # fmt: skip
PREPARE = """
import sys
from pathlib import Path
import numpy as np
from inference_models import MODELS, keras_model
from keras_tfcl.export import export_onnx

folder, name, rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
model = keras_model(name)
x = np.random.default_rng(0).normal(size=(rows, *MODELS[name])).astype("float32")
np.save(folder / "x.npy", x)
np.save(folder / "embeddings.npy", model.predict(x, verbose=0))
export_onnx(model, folder / "model.onnx", normalize=False)
model.save(folder / "model.keras")
model.export(folder / "saved", verbose=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="Python interpreter with torch")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--names", nargs="+", default=list(BASELINES), choices=list(BASELINES))
    parser.add_argument("--rows", type=int, default=512, help="rows embedded in one measurement; an eighth at batch 1")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one measurement")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            started = [sys.executable, "-c", PREPARE, folder, model, str(arguments.rows)]
            subprocess.run(started, check=True, env=environment(), cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
            for batch in arguments.batches:
                for name in arguments.names:
                    rows.append(measure(Path(folder), model, name, batch, arguments.peers, arguments.timeout))
                    compare(rows)
                    print(*(f"{key}={value}" for key, value in rows[-1].items() if value != ""), flush=True)
                    write(rows, arguments.results)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **more}


def measure(folder: Path, model: str, name: str, batch: int, peers: str | None, timeout: float) -> dict[str, Any]:
    """Runs the worker once; a failure becomes a note."""
    row = dict.fromkeys(FIELDS, "") | {"model": model, "batch": batch, "name": name}
    where = BASELINES[name][2]
    if where == "peers" and peers is None:
        return row | {"note": "left out: no --peers"}
    worker = [peers if where == "peers" else sys.executable, str(Path(__file__).with_name("inference_worker.py"))]
    more = {"KERAS_TFCL_ON_DEMAND": "1"} if name == "OnnxEncoder" else {}
    try:
        done = subprocess.run(
            [*worker, str(folder), model, name, str(batch)],
            capture_output=True, text=True, timeout=timeout, env=environment(**more), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return row | {"note": f"more than {timeout:.0f} s"}
    if done.returncode:
        return row | {"note": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:100]}
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return row | {key: float(f"{value:.3g}") for key, value in result.items()}


def compare(rows: list[dict[str, Any]]) -> None:
    """Fills in how many times as fast as `model.predict` each one is."""
    predict = {(r["model"], r["batch"]): r["rows_per_second"] for r in rows if r["name"] == "model.predict"}
    for row in rows:
        base = predict.get((row["model"], row["batch"]))
        if base and row["rows_per_second"]:
            row["against_predict"] = float(f"{row['rows_per_second'] / base:.3g}")


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """Writes the table as .csv and .md, each beside and renamed."""
    folder.mkdir(exist_ok=True)
    with (folder / ".speed_inference.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / ".speed_inference.md").write_text(markdown(rows))
    for suffix in ("csv", "md"):
        os.replace(folder / f".speed_inference.{suffix}", folder / f"speed_inference.{suffix}")


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"Embedding float32 rows on {os.cpu_count()} cores of {platform.machine()}, one fresh process a line: median "
        "rows a second (lowest to highest), against `model.predict` at the same batch, seconds to import and load, "
        "memory of the process when loaded and while working, largest difference to Keras relative to the largest "
        "value.",
        "",
        "| model | batch | what | rows/s | against predict | load s | MiB loaded | MiB working | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        speed = row["note"] or f"{row['rows_per_second']:,.0f} ({row['low']:,.0f} to {row['high']:,.0f})"
        cells = [row["model"], row["batch"], row["name"], speed, row["against_predict"], row["load"], row["MiB"]]
        lines.append("| " + " | ".join(map(str, [*cells, row["working_MiB"], row["difference"]])) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
