"""`keras-tfcl embed`"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from keras_tfcl.cli.options import (
    AUTO,
    AsJson,
    Encoder,
    Provider,
    Quiet,
    Strict,
    Threads,
    in_one_line,
    providers_of,
    read_input,
)
from keras_tfcl.export.runtime.encoder import OnnxEncoder


def embed(
    file: Encoder,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            exists=True, help="One .npy or .npz file, a .txt file of texts, or images and folders of images."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npy, .npz or .parquet file to write.")],
    provider: Provider = AUTO,
    strict: Strict = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of samples in a run, and of images in memory.")] = 64,
    threads: Threads = None,
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option(help="skip: leave out what cannot be read, and name it.")
    ] = "stop",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue a run that was killed, or add what is new, into the same .parquet."),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the embeddings of arrays, images or texts to a file, of any size and without TensorFlow.

    .parquet and .npz store the name of each image in `id`. Embeddings have the order of the arguments; the files in a
    folder and its subfolders are sorted by path, and hidden files are ignored. An .npz file for several inputs holds
    one array for each input, by name. A .txt file holds one text per line, and `id` is the number of
    the line, from 0.

    Examples: keras-tfcl embed encoder.onnx photos/ -o photos.parquet --on-error skip

    keras-tfcl embed encoder.onnx rows.npy -o embeddings.npy

    keras-tfcl embed encoder.onnx texts.txt -o texts.parquet --resume
    """
    rows = read_input(inputs)
    encoder = OnnxEncoder(file, providers_of(provider), strict, batch_size, threads)
    named = isinstance(rows, list) and isinstance(rows[0], Path) and out.suffix != ".npy"
    skipped: list[str] = []

    def skip(position: int, item: object, error: Exception) -> None:
        skipped.append(str(item) if isinstance(item, (str, Path)) else str(position))
        print(f"skipped: {in_one_line(error)}", file=sys.stderr)

    count = encoder.encode_to(
        rows,
        out,
        ids=rows if named else None,
        progress=sys.stderr.isatty() and not quiet,
        on_error=skip if on_error == "skip" else "raise",
        resume=resume,
    )
    if as_json:
        done = {"ok": True, "out": str(out), "rows": count, "dimension": encoder.dimension}
        print(json.dumps(done | {"providers": encoder.providers, "skipped": skipped}))
    else:
        left_out = f", {len(skipped)} skipped" if skipped else ""
        print(f"{out}: {count} embeddings of length {encoder.dimension}{left_out}")
