"""`keras-tfcl diagnose`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from keras_tfcl.export.runtime.requirements import require


def diagnose(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .keras file.")],
    data: Annotated[str, typer.Argument(help="An .npz (x, y) or .npy file, mnist5k, folder:PATH, a data set's name.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    kind: Annotated[str | None, typer.Option(help="Kind of image, for views if the model has no augmenter.")] = None,
    rows: Annotated[int | None, typer.Option(min=2, help="Most instances to look at.")] = None,
) -> None:
    """Write one HTML page that tells whether a trained encoder is healthy. Exit code 1: it is not.

    Needs TensorFlow, scikit-learn and matplotlib.

    Examples: keras-tfcl diagnose run.keras images.npz -o report.html
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    chosen = {"--kind": kind, "--rows": rows}
    options = [str(part) for option in chosen.items() if option[1] is not None for part in option]
    command = require("keras_tfcl.diagnostics.command", "tf")
    raise typer.Exit(command.main([str(model), data, "--output", str(output), *options]))
