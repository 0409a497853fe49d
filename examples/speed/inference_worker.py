"""One measurement in a process of its own: `inference_worker.py FOLDER MODEL NAME BATCH` prints a line of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
SECONDS = 5.0  # repeated for about this long, at least 3 times
Run = Callable[[Any, int], Any]  # (rows, batch size) -> embeddings


def onnx_encoder(folder: Path, model: str) -> Run:
    from keras_tfcl.export import OnnxEncoder

    return OnnxEncoder(folder / "model.onnx", providers="cpu").encode


def predict(folder: Path, model: str) -> Run:
    import keras

    loaded = keras.models.load_model(folder / "model.keras")
    return lambda x, batch: loaded.predict(x, batch_size=batch, verbose=0)


def tf_function(folder: Path, model: str, jit: bool = False) -> Run:
    import keras
    import tensorflow as tf

    loaded = keras.models.load_model(folder / "model.keras")
    return _in_batches(tf.function(lambda x: loaded(x, training=False), jit_compile=jit), lambda e: e.numpy())


def saved_model(folder: Path, model: str) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / "saved"))  # kept: it owns the variables
    return _in_batches(lambda x: loaded.serve(x), lambda e: e.numpy())


def torch(folder: Path, model: str, compiled: bool = False) -> Run:
    import torch
    from inference_models import torch_model

    network = torch.compile(torch_model(model)) if compiled else torch_model(model)

    def embed(rows: Any) -> Any:
        rows = torch.from_numpy(rows)
        with torch.inference_mode():
            return network(rows.permute(0, 3, 1, 2).contiguous() if rows.ndim == 4 else rows)

    return _in_batches(embed, lambda e: e.numpy())


# name -> (function, its choices, "own" environment or the environment of "peers")
BASELINES: dict[str, tuple[Callable[..., Run], dict[str, Any], str]] = {
    "OnnxEncoder": (onnx_encoder, {}, "own"),
    "model.predict": (predict, {}, "own"),
    "tf.function": (tf_function, {}, "own"),
    "tf.function, XLA": (tf_function, {"jit": True}, "own"),
    "SavedModel": (saved_model, {}, "own"),
    "torch": (torch, {}, "peers"),
    "torch, compiled": (torch, {"compiled": True}, "peers"),
}


def main(folder: Path, model: str, name: str, batch: int) -> None:
    import numpy as np

    function, choices, where = BASELINES[name]
    run = function(folder, model, **choices)
    loaded, memory = time.perf_counter() - STARTED, _resident()
    x = np.load(folder / "x.npy")
    x = x[: max(batch, len(x) // 8 if batch < 8 else len(x)) // batch * batch]
    started = time.perf_counter()
    embeddings = run(x, batch)
    first = time.perf_counter() - started
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        started = time.perf_counter()
        run(x, batch)
        times.append(time.perf_counter() - started)
    result = {"load": loaded, "MiB": memory, "first": first, "working_MiB": _resident()}
    rates = [len(x) / seconds for seconds in times]
    result |= {"rows_per_second": float(np.median(rates)), "low": min(rates), "high": max(rates)}
    if where == "own":
        reference = np.load(folder / "embeddings.npy")[: len(x)]
        result["difference"] = float(np.abs(embeddings - reference).max() / np.abs(reference).max())
    print(json.dumps(result))


def _in_batches(function: Callable[[Any], Any], as_array: Callable[[Any], Any]) -> Run:
    def run(x: Any, batch: int) -> Any:
        import numpy as np

        return np.concatenate([as_array(function(x[i : i + batch])) for i in range(0, len(x), batch)])

    return run


def _resident() -> float:
    """Memory of this process in MiB. Linux."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
