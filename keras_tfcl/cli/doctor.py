"""`keras-tfcl doctor`"""

from __future__ import annotations

from typing import Annotated

import typer

from keras_tfcl.cli.options import AsJson, show
from keras_tfcl.export.runtime.environment import check_environment


def doctor(
    debug: Annotated[
        bool, typer.Option("--debug", help="Add the messages of onnxruntime about its libraries.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show installed versions, the hardware that onnxruntime uses, and problems. The exit code is 1 with problems.

    Example: keras-tfcl doctor --json
    """
    report = check_environment()
    show(report, as_json, ok=not report.problems)
    if debug and not as_json:
        print(report.debug)
    if report.problems:
        raise typer.Exit(1)
