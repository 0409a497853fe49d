"""The command that writes a report about a saved model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from keras_tfcl.data.images import KINDS
from keras_tfcl.diagnostics.embeddings import MAX_SAMPLES
from keras_tfcl.diagnostics.saved_model import report_saved_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: of the command line. Defaults to those of the process.

    Returns:
        The exit code: 0 for a healthy encoder, 1 for any other verdict. What cannot be read ends in SystemExit 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        verdict = report_saved_model(options.model, options.data, options.output, options.kind, options.rows)
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        parser.error(str(error))
    print(f"{verdict}. Written: {options.output}")
    return 0 if verdict == "Healthy" else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m keras_tfcl.diagnostics",
        description="Writes one HTML page that tells whether an encoder is healthy.",
    )
    parser.add_argument("model", help="a .keras file: a ContrastiveModel, or an encoder")
    parser.add_argument("data", help="an .npz (x, y) or .npy file, mnist5k, folder:PATH or a tensorflow_datasets name")
    parser.add_argument("-o", "--output", default="report.html", help="the page to write")
    parser.add_argument("--kind", choices=KINDS, help="kind of image, for views if the model has no augmenter")
    parser.add_argument("--rows", type=int, default=MAX_SAMPLES, help="largest number of samples")
    return parser
