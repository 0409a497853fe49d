"""The command `keras-tfcl`. One file holds one command; `app` lists them.

Exit codes: 0, done; 1, a check failed or a file was refused, with the reason in one line; 2, the command line is wrong,
or `diagnose` cannot read what it was given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from keras_tfcl.export.runtime.requirements import require


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments`, by default the command line of the process, and return the exit code."""
    try:
        require("typer", "cli")
    except ImportError as error:
        print(error, file=sys.stderr)
        return 1
    from keras_tfcl.cli.app import run

    return run(list(sys.argv[1:] if arguments is None else arguments))
