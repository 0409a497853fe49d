"""Times this library's losses beside others', each in a fresh process: `python examples/speed/losses.py`.

Writes examples/results/speed_losses.csv, .md and .png, and the table in docs/kernel.md; `--resume` keeps what the table
holds, and `--resume --minutes 0` writes all of it anew from the .csv. Other libraries run in the environment given by
`--peers` (`make bench` builds it); without it they are left out. The most telling sizes come first: when `--minutes`
are over, the other sizes are not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from baselines import BASELINES, CLIP, FLOOR, NT_XENT, SIGLIP
from launches import launches

RESULTS = Path(__file__).parents[1] / "results"
PAGE = Path(__file__).parents[2] / "docs" / "kernel.md"
START, END = "<!-- examples/speed/losses.py writes this table -->", "<!-- until here -->"
# At sizes beside N = 4,096: one of ours for each objective, and the fastest of the others.
CORE = ["keras_tfcl", "keras_tfcl arctanh", "keras_tfcl cross-view", "keras_tfcl sigmoid", FLOOR]
CORE += ["TensorFlow dense (XLA)", "torch cross-entropy, compiled", "open_clip", "open_clip SigLipLoss"]
LARGE = ["keras_tfcl sigmoid", "keras_tfcl"]  # in memory linear in N
PLAN = [(4096, 128, None), (4096, 512, None), (1024, 128, CORE), (16384, 128, CORE), (256, 128, CORE)]
PLAN += [(65536, 128, LARGE), (16384, 512, CORE), (1024, 512, CORE), (256, 512, CORE)]
DENSE_BYTES = 2e9  # a dense form is left out where one matrix is larger: it makes several
FIELDS = [
    "name", "objective", "N", "D", "seconds", "floors", "low", "high", "MiB", "buffers", "first", "first_MiB",
    "first_own_MiB", "launches", "value_error", "gradient_error", "versions", "note",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="Python interpreter with torch and the peers")
    parser.add_argument("--pairs", type=int, nargs="+", help="N; by default a plan of sizes")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--names", nargs="+", default=list(BASELINES), choices=list(BASELINES))
    parser.add_argument("--minutes", type=float, default=60, help="for all measurements")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one measurement")
    parser.add_argument("--resume", action="store_true", help="measure only what the table lacks")
    arguments = parser.parse_args()
    plan = PLAN if arguments.pairs is None else [(n, d, None) for d in arguments.dimensions for n in arguments.pairs]
    rows = read() if arguments.resume else []
    done = {(row["name"], row["N"], row["D"]) for row in rows}
    end = time.monotonic() + 60 * arguments.minutes
    for count, dimension, core in plan:
        names = [name for name in arguments.names if core is None or name in core]
        for name in names if dimension in arguments.dimensions else []:
            if (name, count, dimension) not in done and time.monotonic() < end:
                rows.append(measure(name, count, dimension, arguments.peers, arguments.timeout))
                print(*(f"{key}={value}" for key, value in rows[-1].items() if value != ""), flush=True)
                write_csv(rows)
    write(rows)


def measure(name: str, count: int, dimension: int, peers: str | None, timeout: float) -> dict[str, Any]:
    """Runs the worker once; a failure becomes a note."""
    _, _, objective, where = BASELINES[name]
    row = dict.fromkeys(FIELDS, "") | {"name": name, "objective": objective, "N": count, "D": dimension}
    streamed = name.startswith("keras_tfcl") or name == FLOOR
    edge = count if objective in (CLIP, SIGLIP) else 2 * count
    if not streamed and 4 * edge**2 > DENSE_BYTES:
        return row | {"note": f"left out: {4 * edge**2 / 2**30:.0f} GiB a matrix"}
    if where == "peers" and peers is None:
        return row | {"note": "left out: no --peers"}
    command = [sys.executable if where == "own" else str(peers), str(Path(__file__).with_name("worker.py"))]
    command += [name, str(count), str(dimension)]
    try:
        done = run(command, timeout)
        if done.returncode == 0 and (where == "own" or name == "optax"):
            row |= of_programs([*command, "first"], timeout)
    except subprocess.TimeoutExpired:
        return row | {"note": f"more than {timeout:.0f} s"}
    if done.returncode:
        return row | {"note": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:100]}
    result = json.loads(done.stdout.strip().splitlines()[-1])
    bytes_of = {"MiB": "bytes", "first_MiB": "first_bytes", "first_own_MiB": "first_own_bytes"}
    row |= {column: round(result[key] / 2**20, 1) for column, key in bytes_of.items()} | {
        "versions": result["versions"]
    }
    return row | {key: float(f"{result[key]:.3g}") for key in FIELDS if isinstance(result.get(key), float)}


def run(command: list[str], timeout: float, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=given, check=False)


def of_programs(command: list[str], timeout: float) -> dict[str, Any]:
    """What the compiled programs say, from a run of their own: to write them takes memory, which is not the loss's."""
    with tempfile.TemporaryDirectory() as folder:
        run(command, timeout, XLA_FLAGS=f"--xla_dump_to={folder} --xla_dump_hlo_as_text")
        return {"buffers": assigned_buffers(Path(folder)), "launches": launched(Path(folder))}


def assigned_buffers(folder: Path) -> float | str:
    """MiB that XLA's buffer assignment holds, of the largest program compiled; "" without XLA."""
    texts = [path.read_text() for path in folder.glob("*buffer-assignment.txt")]
    sizes = [int(size) for text in texts for size in re.findall(r"Total bytes used: (\d+)", text)]
    return round(max(sizes) / 2**20, 1) if sizes else ""


def launched(folder: Path) -> str:
    """How many kernels the largest program launches; "" without XLA."""
    texts = [path.read_text() for path in folder.glob("*after_optimizations.txt")]
    counts = [launches(text) for text in texts if "ENTRY" in text]
    return "" if not counts else "{}{}".format(max(counts)[0], "" if max(counts)[1] else " or more")


def read() -> list[dict[str, Any]]:
    """The rows of an earlier run."""
    with (RESULTS / "speed_losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = [name for name in FIELDS if name not in ("name", "objective", "launches", "versions", "note")]
    rows = [{**dict.fromkeys(FIELDS, ""), **row} for row in rows]
    return [
        row | {key: float(row[key]) if key not in ("N", "D") else int(row[key]) for key in numbers if row[key]}
        for row in rows
    ]


def compare_with_floor(rows: list[dict[str, Any]]) -> None:
    """Fills in how many times the floor's seconds each measurement takes."""
    floors = {(row["N"], row["D"]): row["seconds"] for row in rows if row["name"] == FLOOR and row["seconds"]}
    for row in rows:
        floor = floors.get((row["N"], row["D"]))
        if floor and row["seconds"]:
            row["floors"] = round(row["seconds"] / floor, 2)


def write_csv(rows: list[dict[str, Any]]) -> None:
    compare_with_floor(rows)
    RESULTS.mkdir(exist_ok=True)
    with replaced(RESULTS / "speed_losses.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def write(rows: list[dict[str, Any]]) -> None:
    """Writes the table as .csv and .md and into docs/kernel.md, and draws the figure."""
    write_csv(rows)
    with replaced(RESULTS / "speed_losses.md") as path:
        path.write_text(markdown(rows))
    before, rest = PAGE.read_text().split(START)
    with replaced(PAGE) as path:
        path.write_text(f"{before}{START}\n{summary(rows)}{END}{rest.split(END, 1)[1]}")
    plot(rows, RESULTS / "speed_losses.png")


def summary(rows: list[dict[str, Any]], count: int = 4096, dimension: int = 128) -> str:
    """The table in docs/kernel.md."""
    lines = ["", "| | | seconds | memory |", "|---|---|---|---|"]
    for objective in (NT_XENT, CLIP, SIGLIP):
        of_objective = [r for r in rows if (r["objective"], r["N"], r["D"]) == (objective, count, dimension)]
        for row in sorted((r for r in of_objective if r["seconds"] != ""), key=lambda r: r["seconds"]):
            name = f"**{row['name']}**" if row["name"].startswith("keras_tfcl") else row["name"]
            lines.append(f"| {objective} | {name} | {row['seconds']:.2g} | {memory(row):,.0f} MiB |")
    return "\n".join(lines) + "\n\n"


def memory(row: dict[str, Any]) -> float:
    """MiB that a call needs: a process that has warmed up may hold XLA's buffers already, and then does not grow."""
    return max(row["MiB"], row["buffers"] or 0)


@contextlib.contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, renamed to it when the block ends without an error."""
    path = target.with_name("." + target.name)
    try:
        yield path
        os.replace(path, target)
    finally:
        path.unlink(missing_ok=True)


def markdown(rows: list[dict[str, Any]]) -> str:
    versions = sorted({part for row in rows for part in row["versions"].split(", ") if part})
    lines = [
        f"Value and gradient, float32, {os.cpu_count()} cores of {platform.machine()}, one fresh process a line; "
        f"normal embeddings of seed 0, the second view with the first added; {', '.join(versions)}. "
        "Median seconds (lowest to highest), and how many times the floor: the leanest loop over the matrix products "
        "of 2N against 2N. Peak extra memory of the process while it runs, and of the program alone by XLA's buffer "
        "assignment. Kernels launched a call, by the optimized program. Seconds and peak extra memory of the first "
        "call, which traces and compiles with nothing warmed up, with and without the pages of libraries that it maps. "
        "Relative error of value and gradient against float64. Seconds of separate processes drift: speed_in_turn.md "
        "has the ratios of our losses in one process.",
        "",
        "| objective | what | N | D | seconds | x floor | MiB | XLA MiB | kernels | first call | its MiB | without "
        "libraries | value error | gradient error |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    columns = ["floors", "MiB", "buffers", "launches", "first", "first_MiB", "first_own_MiB"]
    columns += ["value_error", "gradient_error"]
    for row in sorted(rows, key=lambda r: (r["D"], r["N"], r["objective"])):
        seconds = row["note"] or f"{row['seconds']} ({row['low']} to {row['high']})"
        cells = [row["objective"], row["name"], row["N"], row["D"], seconds]
        cells += [row[key] for key in columns]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    dimension = rows[0]["D"]
    counts = sorted({row["N"] for row in rows})
    palette = [*pyplot.get_cmap("tab20").colors, *pyplot.get_cmap("tab20b").colors]
    colors = dict(zip(BASELINES, palette, strict=False))
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    timed = [row for row in rows if row["D"] == dimension and row["seconds"] != ""]
    for axis, value, label in zip(axes, (lambda r: r["seconds"], memory), ("seconds", "memory (MiB)"), strict=True):
        for name in BASELINES:
            points = sorted((row["N"], value(row)) for row in timed if row["name"] == name)
            own = name.startswith("keras_tfcl")
            style = {"linewidth": 3 if own else 1.2, "linestyle": ":" if name == FLOOR else "-"}
            axis.loglog(
                *zip(*points, strict=True) if points else ([], []), "o", color=colors[name], label=name, **style
            )
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.set(xlabel=f"pairs N (D = {dimension})", ylabel=label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    with replaced(target) as path:
        figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)


if __name__ == "__main__":
    main()
