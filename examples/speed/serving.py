"""Times the server under load: `python examples/speed/serving.py`.

One row a request, as a binary tensor of the Open Inference Protocol, from clients that each wait for their answer
before they send the next. Beside it, on the same cores: a bare onnxruntime session that gets full batches, with no HTTP
at all, and a plain FastAPI handler that runs the session once for each request. The clients run on the same machine, in
a process of their own, and take their share of it. Writes examples/results/speed_serving.csv, .md and .png.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_tfcl.export import OnnxEncoder, export_onnx

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
SIDE = 96
BARE = "bare onnxruntime, full batches"
SERVERS = {"keras-tfcl serve": "ours", "plain FastAPI + onnxruntime": "plain"}
FIELDS = ["name", "clients", "round", "rows_per_second", "p50_ms", "p95_ms", "p99_ms", "failed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        make_encoder(path)
        for number in range(1, options.rounds + 1):
            rows.append({"name": BARE, "clients": "", "round": number, "rows_per_second": bare(path, options.seconds)})
            for name, kind in SERVERS.items():
                for clients in options.clients:
                    rows.append(
                        {"name": name, "clients": clients, "round": number, **loaded(path, kind, clients, options)}
                    )
                    print(rows[-1], flush=True)
    write(rows, options)


def make_encoder(path: Path) -> None:
    """ResNet-18 for images of 96 x 96."""
    from keras_tfcl.models.backbone import build_backbone

    export_onnx(build_backbone("resnet18", SIDE), path)


def bare(path: Path, seconds: float, batch: int = 64) -> float:
    """Rows a second of a session without anything around it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    spec = session.get_inputs()[0]
    rows = np.random.default_rng(0).integers(0, 256, (batch, *spec.shape[1:])).astype("float32")
    session.run(None, {spec.name: rows})
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        session.run(None, {spec.name: rows})
        count += batch
    return count / (time.perf_counter() - started)


def loaded(path: Path, kind: str, clients: int, options: argparse.Namespace) -> dict[str, float]:
    """What clients measure of one server, started for them alone."""
    command = [Path(sys.executable).with_name("keras-tfcl"), "serve", path, "--port", "0"]
    if kind == "plain":
        command = [sys.executable, HERE / "serving_plain.py", path]
    env = {**os.environ, "KERAS_TFCL_ON_DEMAND": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        port = int(server.stdout.readline().strip().rsplit(":", 1)[1])
        spec = OnnxEncoder(path).inputs[0]
        shape = [str(side) for side in spec.shape[1:]]
        done = subprocess.run(
            [
                sys.executable,
                HERE / "serving_clients.py",
                str(port),
                str(clients),
                str(options.seconds),
                spec.name,
                *shape,
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        server.terminate()
    return json.loads(done.stdout)


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Prints and saves the table and the figure."""
    with (RESULTS / "speed_serving.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    bare_rate = {row["round"]: row["rows_per_second"] for row in rows if row["name"] == BARE}
    lines = [
        "# Serving: speed under load",
        "",
        f"ResNet-18, images of {SIDE} x {SIDE}, one row a request, {options.seconds:g} s, median of "
        f"{options.rounds} rounds. {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; "
        "the clients run on the same cores. No GPU was measured.",
        "",
        f"Command: `python examples/speed/serving.py --seconds {options.seconds:g} --rounds {options.rounds}`",
        "",
        "| | clients | rows a second | of bare onnxruntime | p50 ms | p95 ms | p99 ms | failed |",
        "|---|---|---|---|---|---|---|---|",
        f"| {BARE} | | {statistics.median(bare_rate.values()):.0f} | 1.00 | | | | |",
    ]
    for name in SERVERS:
        for clients in options.clients:
            mine = [row for row in rows if row["name"] == name and row["clients"] == clients]
            ratio = statistics.median(row["rows_per_second"] / bare_rate[row["round"]] for row in mine)
            values = [statistics.median(row[key] for row in mine) for key in FIELDS[3:]]
            lines.append(
                f"| {name} | {clients} | {values[0]:.0f} | {ratio:.2f} | "
                + " | ".join(f"{value:.0f}" for value in values[1:])
                + " |"
            )
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / "speed_serving.md").write_text(text)
    draw(rows, options)


def draw(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Throughput and latency against the number of clients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in SERVERS:
        mine = {c: [row for row in rows if row["name"] == name and row["clients"] == c] for c in options.clients}
        left.plot(
            options.clients,
            [statistics.median(row["rows_per_second"] for row in mine[c]) for c in options.clients],
            "o-",
            label=name,
        )
        for quantile, style in (("p50_ms", "o-"), ("p99_ms", "o:")):
            right.plot(
                options.clients,
                [statistics.median(row[quantile] for row in mine[c]) for c in options.clients],
                style,
                label=f"{name}, {quantile[:3]}",
            )
    left.axhline(
        statistics.median(row["rows_per_second"] for row in rows if row["name"] == BARE), color="grey", label=BARE
    )
    for axis, title in ((left, "rows a second"), (right, "milliseconds to the answer")):
        axis.set(xlabel="clients", title=title, xscale="log", ylim=(0, None))
        axis.set_xticks(options.clients, [str(c) for c in options.clients])
        axis.legend(fontsize=7)
    figure.savefig(RESULTS / "speed_serving.png", dpi=110)


if __name__ == "__main__":
    main()
