"""`keras-tfcl embed`"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from keras_tfcl.cli.options import (
    AsJson,
    OnnxFile,
    Provider,
    Quiet,
    Strict,
    Threads,
    providers_of,
    read_input,
)
from keras_tfcl.export.runtime.encoder import OnnxEncoder


def embed(
    file: OnnxFile,
    inputs: Annotated[list[Path], typer.Argument(exists=True, help="One .npy file, or images and folders of images.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npy or .parquet file to write.")],
    provider: Provider = (),
    strict: Strict = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per run, and pictures in memory.")] = 64,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the embeddings of rows or images to a file, without TensorFlow and however many there are.

    A .parquet file names each image in its column `id`. In .npy their order is that of the arguments, and inside a
    folder, with its subfolders, of the sorted paths.

    Examples: keras-tfcl embed encoder.onnx photos/ -o photos.parquet

    keras-tfcl embed encoder.onnx rows.npy -o embeddings.npy
    """
    rows = read_input(inputs)
    encoder = OnnxEncoder(file, providers_of(provider), strict, batch_size, threads)
    named = not isinstance(rows, np.ndarray) and out.suffix == ".parquet"
    count = encoder.encode_to(rows, out, ids=rows if named else None, progress=sys.stderr.isatty() and not quiet)
    done = {"ok": True, "out": str(out), "rows": count, "dimension": encoder.dimension, "providers": encoder.providers}
    print(json.dumps(done) if as_json else f"{out}: {count} embeddings of length {encoder.dimension}")
