"""Load a `.keras` file, with TensorFlow loaded only now and without its log lines."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from keras_tfcl.export.errors import ModelFileError
from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    import keras

_WITH_CLASSES = ("layers", "losses", "metrics", "models")


def load_model(path: Path, modules: Sequence[str] = ()) -> keras.Model:
    """Return the Keras model saved at `path`.

    Args:
        path: of the file.
        modules: to import first, from the current folder too, because they register custom classes.

    Raises:
        ModelFileError: Keras cannot load it.
        ValueError: a module cannot be imported.
        ImportError: TensorFlow or Keras is missing; the message names the extra.
    """
    require("tensorflow", "tf")
    for part in _WITH_CLASSES:  # importing them tells Keras the classes of the library
        require(f"keras_tfcl.{part}", "tf")
    _import(modules)
    try:
        return require("keras", "tf").models.load_model(path)
    except Exception as error:  # layers may raise any exception
        raise ModelFileError(
            f"Expected a model saved by model.save('name.keras'). Received: {path}: {type(error).__name__}: {error}. "
            f"If it has classes of your own, decorate them by keras.saving.register_keras_serializable() and name "
            f"their module: --import my.module"
        ) from error


def _import(modules: Sequence[str]) -> None:
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a module may raise any exception
            raise ValueError(
                f"`--import` must name a module that Python can import. Received: --import {module}: "
                f"{type(error).__name__}: {error}. Run the command in the folder that holds it."
            ) from error


@contextlib.contextmanager
def without_native_logs() -> Iterator[None]:
    """Suppress the logs of TensorFlow and other packages, so that stderr has only our own lines.

    TensorFlow's C++ code writes to file descriptor 2 directly, in part regardless of `TF_CPP_MIN_LOG_LEVEL`. Set that
    variable to 0, 1 or 2 to see everything.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") in ("0", "1", "2") or sys.stderr is None:  # None: closed
        yield
        return
    stderr, disabled = sys.stderr, logging.root.manager.disable
    stderr.flush()
    with open(os.dup(2), "w", buffering=1, errors="backslashreplace") as original, open(os.devnull, "w") as nowhere:
        if _writes_to_descriptor_2(stderr):
            sys.stderr = original
        os.dup2(nowhere.fileno(), 2)
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
            sys.stderr.flush()
            os.dup2(original.fileno(), 2)
            sys.stderr = stderr


def _writes_to_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError):  # replaced by another object, as in tests
        return False
