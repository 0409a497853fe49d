"""One measurement in a process of its own: `python worker.py NAME N D` prints a line of JSON.

`python worker.py NAME N D first` ends after the first call.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from baselines import BASELINES, CLIP, FLOOR, NT_XENT, TEMPERATURE

SECONDS = 2.0  # repeated for about this long, at most 15 times
PACKAGES = ["tensorflow", "torch", "jax", "optax", "lightly", "open_clip_torch", "sentence-transformers"]
PACKAGES += ["pytorch-metric-learning"]
CHECKED_UP_TO = 1024  # pairs for which value and gradient are compared with float64


def main(name: str, count: int, dimension: int, until: str = "") -> None:
    function, choices, objective, _ = BASELINES[name]
    views = np.random.default_rng(0).normal(size=(count, 2, dimension)).astype("float32")
    views[:, 1] += views[:, 0]  # positives more alike than negatives
    compute = function(views, **choices)  # imports what it needs
    before, files = _forget_peak(), _memory("RssFile")
    start = time.perf_counter()
    value, gradient = compute()  # traces and compiles, in a process that has compiled nothing yet
    if until == "first":
        return
    result = {"first": time.perf_counter() - start, "first_bytes": _peak_bytes() - before}
    result["first_own_bytes"] = result["first_bytes"] - (_memory("RssFile") - files)
    before = _forget_peak()  # what the compiler needed for a while is not the loss's
    times: list[float] = []
    while not times or (sum(times) < SECONDS and len(times) < 15):
        start = time.perf_counter()
        compute()
        times.append(time.perf_counter() - start)
    result |= {"seconds": float(np.median(times)), "low": min(times), "high": max(times)}
    result["bytes"] = _peak_bytes() - before
    if objective in (NT_XENT, CLIP) and name != FLOOR and count <= CHECKED_UP_TO:
        expected, slope = float64(views.astype("float64"), objective)
        result["value_error"] = float(abs(value - expected) / abs(expected))
        result["gradient_error"] = float(np.abs(gradient - slope).max() / np.abs(slope).max())
    loaded = {name: name.removesuffix("_torch").replace("-", "_") for name in PACKAGES}
    result["versions"] = ", ".join(
        f"{name} {version(name)}" for name, module in loaded.items() if module in sys.modules
    )
    print(json.dumps(result))


def float64(views: np.ndarray, objective: str) -> tuple[float, np.ndarray]:
    """Value and gradient by NumPy in float64."""
    count = len(views)
    x = np.concatenate([views[:, 0], views[:, 1]])
    length = np.linalg.norm(x, axis=1, keepdims=True)
    u = x / length
    logits = u @ u.T / TEMPERATURE
    index = np.arange(2 * count)
    excluded = np.eye(2 * count, dtype=bool) if objective == NT_XENT else (index < count)[:, None] == (index < count)
    logits[excluded] = -np.inf
    top = logits.max(1, keepdims=True)
    total = np.exp(logits - top).sum(1, keepdims=True)
    positive = (index + count) % (2 * count)
    value = float((np.log(total) + top)[:, 0].mean() - logits[index, positive].mean())
    slope = np.exp(logits - top) / total
    slope[index, positive] -= 1
    slope /= TEMPERATURE * 2 * count
    g = (slope + slope.T) @ u
    g = (g - u * (u * g).sum(1, keepdims=True)) / length
    return value, np.stack([g[:count], g[count:]], 1)


def _forget_peak() -> int:
    """Returns freed memory to the system, forgets the peak so far and returns the memory in use. Linux."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    """The largest memory of this process since `_forget_peak`."""
    return _memory("VmHWM")


def _memory(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
