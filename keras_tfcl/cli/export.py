"""`keras-tfcl export`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from keras_tfcl.cli.keras_file import load_model, without_native_logs
from keras_tfcl.cli.options import NO_MODULES, AsJson, Import, NewOnnxFile, read_rows, show
from keras_tfcl.export.export import export_onnx


def export(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A saved .keras file.")],
    out: NewOnnxFile,
    samples: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Real samples to compare on, a .npy or .npz file.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A tokenizer.json to store, so that texts can come in."),
    ] = None,
    projector: Annotated[bool, typer.Option("--projector", help="Keep the projector after the encoder.")] = False,
    normalize: Annotated[bool, typer.Option(help="L2-normalise embeddings.")] = True,
    input_dtype: Annotated[
        str | None, typer.Option(help="Dtype of float inputs in the file, such as uint8 for pixels. [the model's]")
    ] = None,
    pixel_range: Annotated[
        tuple[float, float] | None, typer.Option(help="Values of black and white, such as 0 1. [found in the model]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Fix the batch, for consumers that need it. [free]")
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set.")] = 17,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Write the file even if its embeddings differ.")
    ] = False,
    modules: Import = NO_MODULES,
    as_json: AsJson = False,
) -> None:
    """Write the encoder of a Keras model as an ONNX file, if both compute the same embeddings.

    Examples: keras-tfcl export run.keras encoder.onnx --samples images.npy

    keras-tfcl export run.keras encoder.onnx --import my.layers --tokenizer tokenizer.json
    """
    rows = None if samples is None else read_rows(samples)
    with without_native_logs():
        report = export_onnx(
            load_model(model, modules),
            out,
            projector=projector,
            normalize=normalize,
            input_dtype=input_dtype,
            notes=None if pixel_range is None else {"image": {"range": list(pixel_range)}},
            batch_size=batch_size,
            opset=opset,
            samples=rows,
            tokenizer=tokenizer,
            allow_mismatch=allow_mismatch,
            progress=_say if sys.stderr.isatty() else None,
        )
    show(report, as_json)


def _say(stage: str) -> None:
    print(stage, file=sys.stderr)
