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
    index: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The index that /v1/search uses.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            envvar="KERAS_TFCL_IMAGES", exists=True, file_okay=False, help="Folder of images that the page may show."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free port.")] = 8000,
    provider: Provider = AUTO,
    strict: Strict = False,
    threads: Threads = None,
    max_batch_size: Annotated[
        int, typer.Option(envvar="KERAS_TFCL_MAX_BATCH_SIZE", min=1, help="Largest number of samples in a run.")
    ] = 64,
    max_queue: Annotated[
        int,
        typer.Option(envvar="KERAS_TFCL_MAX_QUEUE", min=1, help="Largest number of waiting samples; beyond it, 429."),
    ] = 1024,
    drain: Annotated[
        float,
        typer.Option(envvar="KERAS_TFCL_DRAIN_S", min=0, help="Seconds to continue serving, not ready, after SIGTERM."),
    ] = 0.0,
) -> None:
    """Serve embeddings and search over HTTP, without TensorFlow.

    The server has OpenAI's /v1/embeddings, the Open Inference Protocol (/v2), /health/live, /health/ready, /metrics and
    /info, a description at /docs, and a search page at /. With KERAS_TFCL_API_KEY set, clients need this bearer key.
    Environment variables set all other limits; see the page on the server.

    Examples: keras-tfcl serve encoder.onnx

    keras-tfcl serve encoder.onnx --index photos.index --images photos/ --port 8080
    """
    server = require("keras_tfcl.export.server", "server")
    encoder = OnnxEncoder(file, providers_of(provider), strict, max_batch_size, threads, spinning=False)
    settings = server.ServerSettings(
        host=host, port=port, max_batch_size=max_batch_size, max_queue=max_queue, drain_s=drain, images=images
    )
    server.serve(encoder, settings, None if index is None else Index.load(index, encoder))
