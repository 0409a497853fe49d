"""Times the server under load: `python examples/speed/serving.py --peers PYTHON_WITH_LITSERVE`.

One row a request, from clients that each wait for their answer before they send the next. Beside it, with the same file
on the same cores: a bare onnxruntime session that gets full batches, with no HTTP at all; a plain FastAPI handler that
runs the session once for each request; and LitServe, which gathers batches. The clients run on the same machine, in a
process of their own, and take their share of it. All are measured in turn, round after round. The CPU time that server
and clients take for a row hardly depends on what else the machine does. Writes examples/results/speed_serving.csv, .md
and .png.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_tfcl.export import OnnxEncoder, export_onnx

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
SIDE = 96
BARE = "bare onnxruntime, full batches"
OURS, PLAIN, LITSERVE = "keras-tfcl serve", "plain FastAPI + onnxruntime", "LitServe"
FIELDS = [
    "name", "clients", "round",
    "rows_per_second", "p50_ms", "p95_ms", "p99_ms", "failed", "server_cpu_ms", "client_cpu_ms",
]  # fmt: skip
NOT_RUN = (
    "Not run: infinity, which loads Hugging Face models through torch and not an ONNX file of one's own, and "
    "text-embeddings-inference, a Rust program for models of texts."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", help="Python interpreter with litserve and onnxruntime")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the table and the figure")
    options = parser.parse_args()
    options.load = os.getloadavg()[0]
    servers = [OURS, PLAIN, *([LITSERVE] if options.peers else [])]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        make_encoder(path)
        for number in range(1, options.rounds + 1):
            rows.append({"name": BARE, "clients": "", "round": number, **bare(path, options.seconds)})
            for name in servers:
                with running(name, path, options.peers) as (port, process):
                    for clients in options.clients:
                        form, before = "json" if name == LITSERVE else "tensor", cpu_seconds(process)
                        measured = load(path, port, clients, options.seconds, form)
                        measured["server_cpu_ms"] = 1e3 * (cpu_seconds(process) - before) / measured.pop("answers")
                        rows.append({"name": name, "clients": clients, "round": number, **measured})
                        print(rows[-1], flush=True)
    write(rows, servers, options)


def make_encoder(path: Path) -> None:
    """ResNet-18 for images of 96 x 96."""
    from keras_tfcl.models.backbone import build_backbone

    export_onnx(build_backbone("resnet18", SIDE), path)


def bare(path: Path, seconds: float, batch: int = 64) -> dict[str, float]:
    """Rows a second, and CPU time of a row, of a session without anything around it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    spec = session.get_inputs()[0]
    rows = np.random.default_rng(0).integers(0, 256, (batch, *spec.shape[1:])).astype("float32")
    session.run(None, {spec.name: rows})
    count, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        session.run(None, {spec.name: rows})
        count += batch
    rate, used = count / (time.perf_counter() - started), time.process_time() - cpu
    return {"rows_per_second": rate, "server_cpu_ms": 1e3 * used / count}


def cpu_seconds(session: int) -> float:
    """CPU time of all processes of a session, which a server and its workers are."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(") ", 1)[1].split()
            ticks += (int(fields[11]) + int(fields[12])) * (int(fields[3]) == session)
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(name: str, path: Path, peers: str | None) -> Iterator[tuple[int, int]]:
    """A server in a process of its own; gives its port and its process when it accepts connections."""
    port = free_port()
    command = {
        OURS: [Path(sys.executable).with_name("keras-tfcl"), "serve", path, "--port", port],
        PLAIN: [sys.executable, HERE / "serving_plain.py", path, port],
        LITSERVE: [peers, HERE / "serving_litserve.py", path, port],
    }[name]
    env = {**os.environ, "KERAS_TFCL_ON_DEMAND": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*map(str, command)], env=env, start_new_session=True, **quiet) as server:
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if server.poll() is not None or time.monotonic() > until:
                os.killpg(server.pid, signal.SIGKILL)
                raise RuntimeError(f"{name} does not start.")
            time.sleep(0.1)
        try:
            yield port, server.pid
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # with its workers


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def load(path: Path, port: int, clients: int, seconds: float, form: str) -> dict[str, float]:
    """What clients measure of one server."""
    spec = OnnxEncoder(path).inputs[0]
    given = [port, clients, seconds, form, spec.name, *spec.shape[1:]]
    command = [sys.executable, str(HERE / "serving_clients.py"), *map(str, given)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def write(rows: list[dict[str, Any]], servers: list[str], options: argparse.Namespace) -> None:
    """Prints and saves the table and the figure."""
    with (options.results / "speed_serving.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    bare_rate = {row["round"]: row["rows_per_second"] for row in rows if row["name"] == BARE}
    bare_cpu = statistics.median(row["server_cpu_ms"] for row in rows if row["name"] == BARE)
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "fastapi", "uvicorn", "uvloop"))
    lines = [
        "# Serving: speed under load",
        "",
        f"ResNet-18, images of {SIDE} x {SIDE}, one row a request, {options.seconds:g} s, median of "
        f"{options.rounds} rounds; the ratio has its lowest and highest round in brackets. {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}, {packages}{litserve_version(options.peers)}; the "
        f"clients run on the same cores. When it began, {options.load:.1f} other processes wanted to run. "
        f"{NOT_RUN} No GPU was measured. CPU: milliseconds of CPU time for a row, of the server and of the clients.",
        "",
        f"Command: `python examples/speed/serving.py --seconds {options.seconds:g} --rounds {options.rounds} "
        f"--clients {' '.join(map(str, options.clients))}{' --peers PYTHON' if options.peers else ''}`",
        "",
        "| | clients | rows a second | of bare | p50 ms | p95 ms | p99 ms | failed | CPU server | CPU clients |",
        "|---|---|---|---|---|---|---|---|---|---|",
        f"| {BARE} | | {statistics.median(bare_rate.values()):.0f} | 1.00 | | | | | {bare_cpu:.2f} | |",
    ]
    for name in servers:
        for clients in options.clients:
            mine = [row for row in rows if row["name"] == name and row["clients"] == clients]
            ratios = [row["rows_per_second"] / bare_rate[row["round"]] for row in mine]
            values = [statistics.median(row[key] for row in mine) for key in FIELDS[3:]]
            lines.append(
                f"| {name} | {clients} | {values[0]:.0f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
                f"{max(ratios):.2f}) | {' | '.join(f'{value:.0f}' for value in values[1:5])} | "
                f"{values[5]:.2f} | {values[6]:.2f} |"
            )
    if LITSERVE not in servers:
        lines += ["", "LitServe was left out: no --peers."]
    text = "\n".join(lines) + "\n"
    print(text)
    (options.results / "speed_serving.md").write_text(text)
    draw(rows, servers, options)


def litserve_version(peers: str | None) -> str:
    if peers is None:
        return ""
    code = "from importlib.metadata import version as v; print('litserve', v('litserve'))"
    return ", " + subprocess.run([peers, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def draw(rows: list[dict[str, Any]], servers: list[str], options: argparse.Namespace) -> None:
    """Throughput and latency against the number of clients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for color, name in enumerate(servers):
        mine = {c: [row for row in rows if row["name"] == name and row["clients"] == c] for c in options.clients}
        left.plot(
            options.clients,
            [statistics.median(row["rows_per_second"] for row in mine[c]) for c in options.clients],
            "o-",
            color=f"C{color}",
            label=name,
        )
        for quantile, style in (("p50_ms", "o-"), ("p99_ms", "o:")):
            right.plot(
                options.clients,
                [statistics.median(row[quantile] for row in mine[c]) for c in options.clients],
                style,
                color=f"C{color}",
                label=f"{name}, {quantile[:3]}",
            )
    left.axhline(
        statistics.median(row["rows_per_second"] for row in rows if row["name"] == BARE), color="grey", label=BARE
    )
    for axis, title in ((left, "rows a second"), (right, "milliseconds to the answer")):
        axis.set(xlabel="clients", title=title, xscale="log")
        axis.set_xticks(options.clients, [str(c) for c in options.clients])
        axis.legend(fontsize=7)
    left.set_ylim(0)
    right.set_yscale("log")
    figure.savefig(options.results / "speed_serving.png", dpi=110)


if __name__ == "__main__":
    main()
