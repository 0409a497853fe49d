"""`keras-tfcl serve`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_tfcl.cli.options import AUTO, Encoder, Provider, Strict, Threads, providers_of
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.index import Index
from keras_tfcl.export.runtime.requirements import require


def serve(
    file: Encoder,
    index: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="What /v1/search looks in.")] = None,
    images: Annotated[Path | None, typer.Option(exists=True, help="Folder of images that the page may show.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free port.")] = 8000,
    provider: Provider = AUTO,
    strict: Strict = False,
    threads: Threads = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Most rows in one run.")] = 64,
    max_queue: Annotated[int, typer.Option(min=1, help="Most rows that wait; beyond that 429.")] = 1024,
    drain: Annotated[float, typer.Option(min=0, help="Seconds to go on serving, not ready, after SIGTERM.")] = 0.0,
) -> None:
    """Serve embeddings, and search in an index, over HTTP. Without TensorFlow.

    Speaks OpenAI's /v1/embeddings and the Open Inference Protocol (/v2), answers /health/live, /health/ready, /metrics
    and /info, describes itself at /docs, and has a search page at /. KERAS_TFCL_API_KEY asks clients for a bearer key;
    every other limit has a variable too, see the page on serving.

    Examples: keras-tfcl serve encoder.onnx

    keras-tfcl serve encoder.onnx --index photos.index --images photos/ --port 8080
    """
    server = require("keras_tfcl.export.server", "server")
    encoder = OnnxEncoder(file, providers_of(provider), strict, max_batch_size, threads)
    settings = server.ServerSettings(
        host=host, port=port, max_batch_size=max_batch_size, max_queue=max_queue, drain_s=drain, images=images
    )
    server.serve(encoder, settings, None if index is None else Index.load(index, encoder))
