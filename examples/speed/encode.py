"""Times `OnnxEncoder.encode` beside a bare session of onnxruntime: `python examples/speed/encode.py`.

Both run the same file with one thread, in turn in one process, in bursts of about a millisecond; the shortest burst of
each counts. `encode` also checks its input and its output for NaN and infinity. Writes speed_encode.csv and .md to
examples/results.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnxruntime

from keras_tfcl.export import OnnxEncoder, export_onnx

RESULTS = Path(__file__).parents[1] / "results"
FIELDS = ["model", "batch", "bare_us", "encode_us", "ratio"]
BURST = 1e-3  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, build in MODELS.items():
            path = Path(folder) / "encoder.onnx"
            export_onnx(build(), path)
            for batch in options.batches:
                rows.append({"model": name, "batch": batch, **compared(path, batch, options.rounds)})
                print(rows[-1], flush=True)
    write(rows, options)


def one_convolution() -> Any:
    """So small that it shows little but what is around it."""
    import keras

    layers = [keras.layers.Conv2D(16, 3, strides=4, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Dense(32)])


def two_convolutions() -> Any:
    import keras

    layers = [keras.layers.Conv2D(f, 3, strides=2, activation="relu") for f in (16, 32)]
    return keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.GlobalAveragePooling2D()])


def small() -> Any:
    from inference_models import keras_model

    return keras_model("small")


MODELS: dict[str, Callable[[], Any]] = {
    "one convolution, 16 filters": one_convolution,
    "two convolutions, 16 and 32 filters": two_convolutions,
    "three convolutions, 32 to 256 filters": small,
}


def compared(path: Path, batch: int, rounds: int) -> dict[str, float]:
    """Microseconds of a run, and their ratio."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    encoder = OnnxEncoder(path, providers="cpu", threads=1)
    x = np.random.default_rng(0).normal(size=(batch, *encoder.inputs[0].shape[1:])).astype("float32")
    calls: list[Callable[[], object]] = [lambda: session.run(None, {"image": x}), lambda: encoder.encode(x)]
    count = max(1, int(BURST / burst(calls[0], 20)))
    best = [float("inf")] * 2
    for _ in range(rounds):
        best = [min(known, burst(call, count)) for known, call in zip(best, calls, strict=True)]
    return {
        "bare_us": round(1e6 * best[0], 1),
        "encode_us": round(1e6 * best[1], 1),
        "ratio": round(best[1] / best[0], 3),
    }


def burst(call: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    with (options.results / "speed_encode.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    lines = [
        "# `encode` beside a bare session",
        "",
        f"Images of 32 x 32 x 3, one thread, in turn in one process, shortest of {options.rounds} bursts. "
        f"{platform.machine()}, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, NumPy "
        f"{np.__version__}. Command: `python examples/speed/encode.py --rounds {options.rounds}`",
        "",
        "| model | batch | bare session, µs | `encode`, µs | ratio |",
        "|---|---|---|---|---|",
        *(
            f"| {r['model']} | {r['batch']} | {r['bare_us']:.1f} | {r['encode_us']:.1f} | {r['ratio']:.2f} |"
            for r in rows
        ),
    ]
    (options.results / "speed_encode.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
