"""Times this library's losses beside others', each in a fresh process: `python examples/speed/losses.py`.

Writes examples/results/speed_losses.csv, .md and .png after each measurement; `--resume` keeps what they hold. Other
libraries run in the environment given by `--peers` (`make bench` builds it); without it they are left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contestants import CLIP, CONTESTANTS, FLOOR, SIGLIP

RESULTS = Path(__file__).parents[1] / "results"
DENSE_BYTES = 2e9  # a dense form is left out where one matrix is larger: it makes several
FIELDS = [
    "name",
    "objective",
    "N",
    "D",
    "seconds",
    "floors",
    "low",
    "high",
    "MiB",
    "buffers",
    "first",
    "first_MiB",
    "value_error",
    "gradient_error",
    "note",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="Python interpreter with torch and the peers")
    parser.add_argument("--pairs", type=int, nargs="+", default=[256, 1024, 4096, 16384, 65536])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--names", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one measurement")
    parser.add_argument("--resume", action="store_true", help="measure only what the table lacks")
    arguments = parser.parse_args()
    rows = read() if arguments.resume else []
    done = {(row["name"], row["N"], row["D"]) for row in rows}
    for dimension in arguments.dimensions:
        for count in arguments.pairs:
            for name in arguments.names:
                if (name, count, dimension) in done:
                    continue
                rows.append(measure(name, count, dimension, arguments.peers, arguments.timeout))
                print(*(f"{key}={value}" for key, value in rows[-1].items() if value != ""), flush=True)
                write(rows)


def measure(name: str, count: int, dimension: int, peers: str | None, timeout: float) -> dict[str, Any]:
    """Runs the worker once; a failure becomes a note."""
    _, _, objective, where = CONTESTANTS[name]
    row = dict.fromkeys(FIELDS, "") | {"name": name, "objective": objective, "N": count, "D": dimension}
    streamed = name.startswith("keras_tfcl") or name == FLOOR
    edge = count if objective in (CLIP, SIGLIP) else 2 * count
    if not streamed and 4 * edge**2 > DENSE_BYTES:
        return row | {"note": f"left out: {4 * edge**2 / 2**30:.0f} GiB a matrix"}
    if where == "peers" and peers is None:
        return row | {"note": "left out: no --peers"}
    command = [sys.executable if where == "own" else peers, str(Path(__file__).with_name("worker.py"))]
    with tempfile.TemporaryDirectory() as folder:
        dump = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "XLA_FLAGS": dump}
        try:
            done = subprocess.run(
                [*command, name, str(count), str(dimension)],
                capture_output=True, text=True, timeout=timeout, env=environment, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return row | {"note": f"more than {timeout:.0f} s"}
        row["buffers"] = assigned_buffers(Path(folder))
    if done.returncode:
        return row | {"note": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:100]}
    result = json.loads(done.stdout.strip().splitlines()[-1])
    row |= {"MiB": round(result["bytes"] / 2**20, 1), "first_MiB": round(result["first_bytes"] / 2**20, 1)}
    return row | {key: float(f"{result[key]:.3g}") for key in FIELDS if key in result}


def assigned_buffers(folder: Path) -> float | str:
    """MiB that XLA's buffer assignment holds, of the largest program compiled; "" without XLA."""
    texts = [path.read_text() for path in folder.glob("*buffer-assignment.txt")]
    sizes = [int(size) for text in texts for size in re.findall(r"Total bytes used: (\d+)", text)]
    return round(max(sizes) / 2**20, 1) if sizes else ""


def read() -> list[dict[str, Any]]:
    """The rows of an earlier run."""
    with (RESULTS / "speed_losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = [name for name in FIELDS if name not in ("name", "objective", "note")]
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


def write(rows: list[dict[str, Any]]) -> None:
    """Writes the table as .csv and .md and draws the figure."""
    compare_with_floor(rows)
    RESULTS.mkdir(exist_ok=True)
    with replaced(RESULTS / "speed_losses.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    with replaced(RESULTS / "speed_losses.md") as path:
        path.write_text(markdown(rows))
    plot(rows, RESULTS / "speed_losses.png")


class replaced:
    """A path beside `target` to write to, renamed to it when the block ends without an error."""

    def __init__(self, target: Path) -> None:
        self.target, self.path = target, target.with_name("." + target.name)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, error: Any, *_: Any) -> None:
        if error is None:
            os.replace(self.path, self.target)
        else:
            self.path.unlink(missing_ok=True)


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"Value and gradient, float32, {os.cpu_count()} cores of {platform.machine()}, one fresh process a line. "
        "Median seconds (lowest to highest), and how many times the floor: the leanest loop over the matrix products "
        "of 2N against 2N. Peak extra memory of the process while it runs, and of the program alone by XLA's buffer "
        "assignment. Seconds and peak extra memory of the first call, which traces and compiles with nothing warmed "
        "up. Relative error of value and gradient against float64. Seconds of separate processes drift: compare ratios "
        "of 1.1 and less in one process only.",
        "",
        "| objective | what | N | D | seconds | x floor | MiB | XLA MiB | first call | its MiB | value error | "
        "gradient error |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r["D"], r["N"], r["objective"])):
        seconds = row["note"] or f"{row['seconds']} ({row['low']} to {row['high']})"
        cells = [row["objective"], row["name"], row["N"], row["D"], seconds]
        cells += [
            row[key] for key in ("floors", "MiB", "buffers", "first", "first_MiB", "value_error", "gradient_error")
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    dimension = rows[0]["D"]
    counts = sorted({row["N"] for row in rows})
    colors = dict(zip(CONTESTANTS, pyplot.get_cmap("tab20").colors, strict=False))
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for axis, field, label in zip(axes, ("seconds", "MiB"), ("seconds", "peak extra memory (MiB)"), strict=True):
        for name in CONTESTANTS:
            points = [(r["N"], r[field]) for r in rows if r["name"] == name and r["D"] == dimension and r[field] != ""]
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
