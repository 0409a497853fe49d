"""`keras-tfcl diagnose`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_tfcl.cli.keras_file import without_native_logs
from keras_tfcl.export.runtime.requirements import require


def diagnose(
    model: Annotated[Path, typer.Argument(exists=True, help="A .keras file, or the folder of a run.")],
    data: Annotated[
        str, typer.Argument(help="A folder of images, an .npz (x, y) or .npy file, mnist5k, a data set's name.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    kind: Annotated[str | None, typer.Option(help="Kind of image, for views if the model has no augmenter.")] = None,
    rows: Annotated[int, typer.Option(min=2, help="Most samples to look at.")] = 1024,
) -> None:
    """Write one HTML page that tells whether a trained encoder is healthy. Exit code 1: it is not.

    Needs TensorFlow, scikit-learn and matplotlib.

    Examples: keras-tfcl diagnose run.keras images.npz -o report.html

    keras-tfcl diagnose runs/photos photos/
    """
    try:
        with without_native_logs():
            report_saved_model = require("keras_tfcl.diagnostics.saved_model", "tf").report_saved_model
            verdict = report_saved_model(model, data, output, kind, rows)
    except (TypeError, RuntimeError, OSError, ImportError) as error:
        raise ValueError(str(error)) from error  # all that cannot be read ends in exit code 2
    print(f"{verdict}. Written: {output}")
    if verdict != "Healthy":
        raise typer.Exit(1)
