"""How fast an encoder is here, at several batch sizes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from keras_tfcl.export.runtime.batches import rows_to_try
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.typing import Inputs


@dataclass(frozen=True)
class Speed:
    """Rows per second and latency in milliseconds of runs of one batch size."""

    batch_size: int
    rows_per_second: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Benchmark:
    """What `benchmark` measured. `print` it, or store `to_dict()` as JSON."""

    encoder: str
    speeds: tuple[Speed, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the figures in types that JSON has."""
        return asdict(self) | {"speeds": [asdict(speed) for speed in self.speeds]}

    def __str__(self) -> str:
        lines = [self.encoder, f"{'batch':>6} {'rows/s':>10} {'p50 ms':>9} {'p95 ms':>9}"]
        lines += [
            f"{s.batch_size:>6} {s.rows_per_second:>10,.0f} {s.p50_ms:>9.2f} {s.p95_ms:>9.2f}" for s in self.speeds
        ]
        return "\n".join(lines)


def benchmark(
    encoder: OnnxEncoder, batch_sizes: Sequence[int], seconds: float, samples: Inputs | None = None
) -> Benchmark:
    """Time `encoder.encode` for about `seconds` at each batch size, after one run that does not count.

    Args:
        encoder: the encoder.
        batch_sizes: positive integers.
        seconds: for each batch size; at least three runs are made.
        samples: a batch of real input. Defaults to zeros; needed where a dimension besides the batch is free.

    Raises:
        InputError: `samples` are needed, or do not fit.
    """
    rows = rows_to_try(samples, encoder.inputs)
    return Benchmark(repr(encoder), tuple(_time(encoder, rows, size, seconds) for size in batch_sizes))


def _time(encoder: OnnxEncoder, rows: list[np.ndarray], size: int, seconds: float) -> Speed:
    names = [spec.name for spec in encoder.inputs]
    batch = {name: np.resize(array, (size, *array.shape[1:])) for name, array in zip(names, rows, strict=True)}
    encoder.encode(batch, batch_size=size)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        encoder.encode(batch, batch_size=size)
        times.append(time.perf_counter() - started)
    return Speed(size, size * len(times) / sum(times), *(1e3 * float(np.percentile(times, q)) for q in (50, 95)))
