"""`keras-tfcl bench`"""

from __future__ import annotations

from typing import Annotated

import typer

from keras_tfcl.cli.options import AUTO, AsJson, OnnxFile, Provider, Samples, Threads, providers_of, read_samples, show
from keras_tfcl.export.runtime.benchmark import benchmark
from keras_tfcl.export.runtime.encoder import OnnxEncoder

BATCH_SIZES = [1, 8, 32, 128]


def bench(
    file: OnnxFile,
    batch_size: Annotated[list[int], typer.Option(min=1, help="Repeat it for several.")] = BATCH_SIZES,
    seconds: Annotated[float, typer.Option(min=0.01, help="Time for each batch size.")] = 2.0,
    samples: Samples = None,
    provider: Provider = AUTO,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure rows per second and latency at several batch sizes, on this machine.

    Example: keras-tfcl bench encoder.onnx --batch-size 1 --batch-size 64
    """
    encoder = OnnxEncoder(file, providers_of(provider), threads=threads)
    rows = None if samples is None else read_samples(samples, encoder)
    show(benchmark(encoder, batch_size, seconds, rows), as_json)
