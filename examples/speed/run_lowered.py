"""Runs what `lower.py` wrote, with jaxlib alone, and prints a table: `python examples/speed/run_lowered.py OUT`.

On a GPU, or on a CPU to try it. Median time of each program after a first call; seconds to compile; kernels that a call
launches; peak memory of the device; errors of value and gradient of InfoNCE against float64 NumPy up to 1,024 pairs.
jaxlib multiplies float32 in TF32 where a GPU has it, as TensorFlow does: the errors show what that costs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import compiler, xla_bridge
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jaxlib.mlir import ir
from launches import launches
from worker import NT_XENT, float64


def load(text: str) -> Any:
    """Compiles a program for the first device."""
    with mlir.make_ir_context():
        options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
        devices = xla_client.DeviceList(tuple(jax.devices()[:1]))
        return xla_bridge.get_backend().compile_and_load(ir.Module.parse(text), devices, options)


def call(program: Any, z: Any) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient."""
    value, gradient = program.execute_sharded([z]).disassemble_into_single_device_arrays()
    gradient[0].block_until_ready()
    return value[0], gradient[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    device = jax.devices()[0]
    print("jax", jax.__version__, device.device_kind)
    print("pairs | dimension | program | ms | compile s | kernels | peak MiB | value error | gradient error")
    for entry in json.loads((arguments.out / "index.json").read_text()):
        count, dimension, name = entry["pairs"], entry["dimension"], entry["name"]
        views = np.random.default_rng(0).normal(size=(count, 2, dimension)).astype("float32")
        views[:, 1] += views[:, 0]
        z = jax.device_put(views)
        start = time.perf_counter()
        program = load((arguments.out / entry["file"]).read_text())
        compiled = time.perf_counter() - start
        value, gradient = call(program, z)
        errors = ""
        if count <= 1024 and name.startswith("infonce"):
            expected, slope = float64(views.astype("float64"), NT_XENT)
            worst = np.abs(np.asarray(gradient) - slope).max() / np.abs(slope).max()
            errors = f"{abs(float(value) / expected - 1):.1e} | {worst:.1e}"
        times, end = [], time.perf_counter() + arguments.seconds
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            call(program, z)
            times.append(time.perf_counter() - start)
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0) >> 20
        kernels, exact = launches(program.hlo_modules()[0].to_string())
        shown = f"{kernels}" if exact else f"at least {kernels}"
        milliseconds = f"{1e3 * float(np.median(times)):.3f}"
        print(
            f"{count} | {dimension} | {name} | {milliseconds} | {compiled:.1f} | {shown} | {peak} | {errors}",
            flush=True,
        )


if __name__ == "__main__":
    main()
