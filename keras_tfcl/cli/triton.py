"""`keras-tfcl triton`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from keras_tfcl.cli.options import AsJson, OnnxFile
from keras_tfcl.export.runtime.triton import write_triton_repository


def triton(
    file: OnnxFile,
    folder: Annotated[Path, typer.Argument(help="The model repository, created if needed.")],
    name: Annotated[str | None, typer.Option(help="Name of the model. [name of the file]")] = None,
    max_batch_size: Annotated[int, typer.Option(min=1)] = 64,
    gpu: Annotated[bool, typer.Option("--gpu", help="Run it on GPUs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the file into a model repository of the Triton inference server.

    Examples: keras-tfcl triton encoder.onnx models/
    """
    version = write_triton_repository(file, folder, name, max_batch_size, gpu)
    print(json.dumps({"ok": True, "version": str(version)}) if as_json else f"{version}: model.onnx and config.pbtxt")
