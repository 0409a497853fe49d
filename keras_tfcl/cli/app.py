"""The application of all commands. It turns errors into a message and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Annotated, TextIO

import typer

from keras_tfcl import __version__
from keras_tfcl.cli.options import in_one_line
from keras_tfcl.export.errors import ExportError, ParityWarning, ProviderWarning

# Each is a function, or a group of commands, in the module of its name beside this one. A module here must not import
# TensorFlow.
COMMANDS = tuple("doctor train export inspect verify embed index serve triton quantize bench diagnose".split())

DONE, FAILED, WRONG_USAGE = 0, 1, 2


def build_app() -> typer.Typer:
    """Return the command with all its subcommands."""
    app = typer.Typer(
        name="keras-tfcl",
        epilog="Exit codes: 0 done, 1 a check failed or a file was refused, 2 the command line is wrong.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for name in COMMANDS:
        module = importlib.import_module(f"keras_tfcl.cli.{name}")
        command = getattr(module, name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _show_version(show: bool) -> None:
    if show:
        print(f"keras-tfcl {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    """From images to embeddings: train an encoder, export it to a verified ONNX file, serve it without TensorFlow."""


def run(arguments: list[str]) -> int:
    """Run the command and return its exit code. What the library raises is printed in one line."""
    with _one_line_warnings(), _ended_by_signal():
        try:
            build_app()(arguments, prog_name="keras-tfcl")
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else FAILED
        except (ExportError, ImportError, OSError, FloatingPointError) as error:  # the last of a run that diverges
            return _fail(error, FAILED, "--json" in arguments)
        except (ValueError, TypeError) as error:  # an argument that only the library could judge
            return _fail(error, WRONG_USAGE, "--json" in arguments)
    return DONE


def _fail(error: Exception, code: int, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"ok": False, "error": type(error).__name__, "message": str(error)}))
    else:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show the library's own warnings, each in one line, and none of other packages."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        print(f"warning: {in_one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module="keras_tfcl")
        for kind in (ParityWarning, ProviderWarning):  # whichever line they point to
            warnings.simplefilter("always", kind)
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that drafts are removed; Python alone would just stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
