"""`keras-tfcl quantize`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from keras_tfcl.cli.options import AsJson, NewOnnxFile, OnnxFile, read_samples, show
from keras_tfcl.export.quantize import quantize as write_int8
from keras_tfcl.export.quantize import to_float16
from keras_tfcl.export.runtime.encoder import OnnxEncoder


def quantize(
    file: OnnxFile,
    out: NewOnnxFile,
    samples: Annotated[
        Path, typer.Option(exists=True, help="Real samples to compare on: .npy, .npz, or a folder of images.")
    ],
    mode: Annotated[
        Literal["auto", "dynamic", "static", "float16"], typer.Option(help="auto: static for convolutional networks.")
    ] = "auto",
    calibration: Annotated[
        Path | None,
        typer.Option(exists=True, help="Samples to measure ranges on, for mode static alone. [half of --samples]"),
    ] = None,
    min_recall: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fail below this share of the 10 nearest neighbours.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a quantized model in int8 or float16, and report how many nearest neighbours it keeps.

    Examples: keras-tfcl quantize encoder.onnx int8.onnx --samples images.npy --min-recall 0.95

    keras-tfcl quantize encoder.onnx float16.onnx --samples photos/ --mode float16
    """
    if mode == "float16" and calibration is not None:
        raise ValueError("`--calibration` is for mode static. Received: mode float16. Leave it out.")
    encoder = OnnxEncoder(file, providers="cpu")
    rows = read_samples(samples, encoder)
    if mode == "float16":
        show(to_float16(file, out, samples=rows, min_recall=min_recall), as_json)
        return
    ranges = None if calibration is None else read_samples(calibration, encoder)
    show(write_int8(file, out, samples=rows, mode=mode, calibration=ranges, min_recall=min_recall), as_json)
