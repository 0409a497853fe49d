"""Load a `.keras` file with the library's classes known to Keras, and TensorFlow loaded only now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_tfcl.export.errors import ModelFileError
from keras_tfcl.export.runtime.requirements import require

_WITH_CLASSES = ("layers", "losses", "metrics", "models")


def load_model(path: Path) -> Any:
    """Return the Keras model saved at `path`.

    Raises:
        ModelFileError: Keras cannot load it.
        ImportError: TensorFlow or Keras is missing; the message names the extra.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    require("tensorflow", "tf")
    for part in _WITH_CLASSES:
        require(f"keras_tfcl.{part}", "tf")
    try:
        return require("keras", "tf").models.load_model(path)
    except Exception as error:  # Keras raises whatever the file leads its layers to
        raise ModelFileError(
            f"Expected a model saved by model.save('name.keras'). Received: {path}: {type(error).__name__}: {error}. "
            f"A model with classes of your own must be exported from Python, where they are defined."
        ) from error
