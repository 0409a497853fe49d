"""`keras-tfcl verify`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_tfcl.cli.keras_file import load_model, without_native_logs
from keras_tfcl.cli.options import AUTO, NO_MODULES, AsJson, Import, OnnxFile, Provider, providers_of, read_rows, show
from keras_tfcl.export.errors import ParityError
from keras_tfcl.export.runtime.golden_inputs import check_probes
from keras_tfcl.export.verify import verify_onnx


def verify(
    file: OnnxFile,
    model: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The .keras file that was exported.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="With --model: real samples, a .npy or .npz file.")
    ] = None,
    provider: Provider = AUTO,
    modules: Import = NO_MODULES,
    as_json: AsJson = False,
) -> None:
    """Check that a file computes the same embeddings on this machine as when it was exported.

    The file holds golden inputs for this. With --model, all checks of the export run again, which needs TensorFlow.

    Examples: keras-tfcl verify encoder.onnx --provider cuda

    keras-tfcl verify encoder.onnx --model run.keras --samples images.npy
    """
    if samples is not None and model is None:
        raise typer.BadParameter("--samples needs --model.")
    if provider and model is not None:
        raise typer.BadParameter("--provider cannot be combined with --model, which compares on the CPU.")
    if model is not None:
        rows = None if samples is None else read_rows(samples)
        with without_native_logs():
            parity = verify_onnx(file, load_model(model, modules), rows)
    elif not (parity := check_probes(file, providers_of(provider))).passed:
        raise ParityError(
            f"This machine must compute the embeddings recorded in the file. Received: {parity}. Do not "
            f"serve {file} here; try --provider cpu."
        )
    if not as_json:
        print("The embeddings are the same: ", end="")
    show(parity, as_json)
