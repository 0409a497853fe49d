"""Times value and gradient of the losses on a GPU: `python examples/speed/gpu.py --peers PYTHON`.

Embeddings and gradients stay on the GPU; a call ends when the value is back on the host. All losses of TensorFlow are
timed in this process, and torch's in one of the interpreter PYTHON. InfoNCE also with tiles of each size, to judge the
size that `block_size="auto"` takes. Writes examples/results/speed_gpu.csv and .md after each line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ml_dtypes
import numpy as np
from baselines import CLIP, NT_XENT, OWN, SIGLIP, dense_loss, device_name, torch_loss, value_and_gradient
from worker import float64

RESULTS = Path(__file__).parents[1] / "results"
PLAN = [(4096, 128), (16384, 128), (1024, 128), (4096, 512), (16384, 512), (1024, 512)]
LARGE = [(65536, 128), (65536, 768)]
TILES = (1024, 2048, 4096, 8192, 16384, 32768)
LOSSES = ["arctanh", "DCL", "reweighted", "learnable", "hard 10 %", "cross-view", "sigmoid"]
CHECKED_UP_TO = 4096  # pairs for which value and gradient are compared with float64
FIELDS = ["name", "objective", "N", "D", "dtype", "products"]
FIELDS += ["milliseconds", "low", "high", "first", "MiB", "value_error", "gradient_error", "note"]
Case = dict[str, Any]
Compute = Callable[[], tuple[Any, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="Python interpreter with torch")
    parser.add_argument("--pairs", type=int, nargs="*", help="only these N of the plan")
    parser.add_argument("--seconds", type=float, default=0.5, help="of calls, for each line")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.worker:
        for case in json.loads(arguments.worker):
            print(json.dumps(measure(case, arguments.seconds)), flush=True)
        return
    device = f"{device_name()}, TensorFlow {version('tensorflow')}"
    plan = [size for size in [*PLAN, *LARGE] if not arguments.pairs or size[0] in arguments.pairs]
    rows: list[Case] = []
    for count, dimension in plan:
        for row in measured(list(cases(count, dimension)), arguments):
            rows.append(row)
            print(*(value for value in row.values() if value != ""), sep=" | ", flush=True)
            write(rows, device, arguments.results)


def cases(count: int, dimension: int) -> Iterator[Case]:
    """What is timed with `count` pairs."""
    size = {"N": count, "D": dimension, "dtype": "float32", "products": "TF32"}
    small = count <= 16384  # a dense matrix of 65,536 pairs has 64 GiB
    yield size | {"name": "keras_tfcl", "objective": NT_XENT}
    yield size | {"name": "keras_tfcl", "objective": NT_XENT, "products": "float32"}
    yield size | {"name": "keras_tfcl", "objective": NT_XENT, "dtype": "bfloat16", "products": "bfloat16"}
    for tile in TILES if dimension == 128 else ():
        if tile <= 2 * count and (count <= 4096 or tile >= 2048):
            yield size | {"name": f"keras_tfcl, tiles of {tile}", "objective": NT_XENT, "tile": tile}
    for name in LOSSES if small else ("sigmoid",):
        yield size | {"name": f"keras_tfcl {name}", "objective": OWN[f"keras_tfcl {name}"][1]}
    half = size | {"dtype": "bfloat16", "products": "bfloat16"}
    yield half | {"name": "keras_tfcl sigmoid", "objective": SIGLIP}
    if small:
        yield size | {"name": "TensorFlow dense (XLA)", "objective": NT_XENT}
        for products in ("TF32", "float32"):
            yield size | {"name": "torch cross-entropy", "objective": NT_XENT, "products": products}
            yield size | {"name": "torch cross-entropy, compiled", "objective": NT_XENT, "products": products}
    yield half | {"name": "torch SigLIP", "objective": SIGLIP}
    yield half | {"name": "torch SigLIP, compiled", "objective": SIGLIP}


def measured(found: list[Case], arguments: argparse.Namespace) -> Iterator[Case]:
    """Runs the cases: torch's in a process of their own, so that neither library holds the other's memory."""
    for case in found:
        if not case["name"].startswith("torch"):
            yield measure(case, arguments.seconds)
    foreign = [case for case in found if case["name"].startswith("torch")]
    if arguments.peers and foreign:
        command = [arguments.peers, __file__, "--worker", json.dumps(foreign), "--seconds", str(arguments.seconds)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for line in process.stdout or ():
            if line.startswith("{"):
                yield json.loads(line)


def measure(case: Case, seconds: float) -> Case:
    """One line of the table; a failure becomes a note."""
    row = dict.fromkeys(FIELDS, "") | {key: value for key, value in case.items() if key in FIELDS}
    views = np.random.default_rng(0).normal(size=(case["N"], 2, case["D"])).astype("float32")
    views[:, 1] += views[:, 0]  # positives more alike than negatives
    views = views.astype(getattr(ml_dtypes, case["dtype"], "float32")).astype("float32")  # what the loss is given
    torch_case = case["name"].startswith("torch")
    try:
        compute, peak = (in_torch if torch_case else in_tensorflow)(case, views)
        start = time.perf_counter()
        value, gradient = compute()
        first = time.perf_counter() - start
        times: list[float] = []
        while sum(times) < seconds or len(times) < 5:
            start = time.perf_counter()
            compute()
            times.append(1e3 * (time.perf_counter() - start))
        row |= {"MiB": peak() >> 20, "first": float(f"{first:.3g}")}
        figures = {"milliseconds": float(np.median(times)), "low": min(times), "high": max(times)}
        row |= {name: float(f"{figure:.4g}") for name, figure in figures.items()}
        if case["objective"] in (NT_XENT, CLIP) and case["N"] <= CHECKED_UP_TO and "tile" not in case:
            row |= errors(views, case["objective"], float(value), gradient)
    except Exception as error:
        row["note"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return row


def errors(views: np.ndarray, objective: str, value: float, gradient: Any) -> dict[str, float]:
    """Relative errors against float64: of the value, and of the gradient by its largest entry."""
    expected, slope = float64(views.astype("float64"), objective)
    found = np.asarray(gradient.float().cpu() if hasattr(gradient, "detach") else gradient, "float64")
    worst = np.abs(found - slope).max() / np.abs(slope).max()
    return {"value_error": float(f"{abs(value / expected - 1):.2g}"), "gradient_error": float(f"{worst:.2g}")}


def in_tensorflow(case: Case, views: np.ndarray) -> tuple[Compute, Callable[[], int]]:
    """The call, compiled by XLA, and a function that tells the peak of the GPU's memory since now."""
    import tensorflow as tf

    import keras_tfcl

    if case["name"].startswith("TensorFlow"):
        loss = dense_loss(len(views))
    else:
        ours = OWN[case["name"].split(",")[0]][0](keras_tfcl)
        ours.block_size = case.get("tile", "auto")
        ours.precision = {"TF32": None, "float32": "highest", "bfloat16": "input"}[case["products"]]
        labels = tf.range(len(views))
        loss = lambda z: ours(labels, z)  # noqa: E731

    program, z = value_and_gradient(loss), tf.cast(tf.constant(views), case["dtype"])

    def compute() -> tuple[Any, Any]:
        value, gradient = program(z)
        return value.numpy(), gradient  # the value arrives when the program has ended

    if not tf.config.list_logical_devices("GPU"):
        return compute, lambda: 0
    tf.config.experimental.reset_memory_stats("GPU:0")
    return compute, lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]


def in_torch(case: Case, views: np.ndarray) -> tuple[Compute, Callable[[], int]]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("highest" if case["products"] == "float32" else "high")
    make = torch_siglip if case["objective"] == SIGLIP else torch_loss
    loss = make(len(views), device)
    loss = torch.compile(loss) if case["name"].endswith("compiled") else loss
    dtype = getattr(torch, case["dtype"])
    a, b = (torch.tensor(views[:, view], device=device, dtype=dtype, requires_grad=True) for view in (0, 1))

    def compute() -> tuple[Any, Any]:
        a.grad = b.grad = None
        value = loss(a, b)
        value.backward()
        number = value.item()  # it waits for what was launched before, the gradient too
        return number, torch.stack([a.grad, b.grad], 1).detach()

    if device == "cpu":
        return compute, lambda: 0
    torch.cuda.reset_peak_memory_stats()
    return compute, torch.cuda.max_memory_allocated


def torch_siglip(count: int, device: str) -> Callable[[Any, Any], Any]:
    """The sigmoid loss as one matrix."""
    import torch

    signs = 2 * torch.eye(count, device=device, dtype=torch.int8) - 1

    def loss(a: Any, b: Any) -> Any:
        unit = torch.nn.functional.normalize
        logits = 10 * unit(a, dim=1) @ unit(b, dim=1).T - 10
        return -torch.nn.functional.logsigmoid(signs * logits).sum() / count

    return loss


def write(rows: list[Case], device: str, results: Path) -> None:
    from keras_tfcl.diagnostics import write_table  # not at the top: torch's process has no keras_tfcl

    write_table(results / "speed_gpu.csv", rows)
    lines = [
        f"Value and gradient on {device}, compiled by XLA; torch beside it. Normal embeddings of seed 0 that stay "
        "on the GPU, the second view with the first added. Median milliseconds of a call (lowest to highest), its "
        "first call in seconds, the peak of the GPU's memory with the embeddings, and relative errors against float64. "
        "Products: what float32 is rounded to before it is multiplied.",
        "",
        "| objective | what | N | D | dtype | products | milliseconds | first call | MiB | value | gradient |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = row["note"] or f"{row['milliseconds']} ({row['low']} to {row['high']})"
        cells = [row[key] for key in ("objective", "name", "N", "D", "dtype", "products")]
        cells += [spread, *(row[key] for key in ("first", "MiB", "value_error", "gradient_error"))]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    (results / "speed_gpu.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
