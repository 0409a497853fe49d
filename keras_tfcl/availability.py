"""What the package does where TensorFlow is not installed: serving works, everything else says what to install."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

# What can be imported without TensorFlow; the last three import nothing but the standard library.
WORKS_WITHOUT_TENSORFLOW = ("export", "cli", "_keras_compat", "atomic_write", "validation")


def tensorflow_is_installed() -> bool:
    """Whether TensorFlow and Keras can be found; imports neither."""
    return find_spec("tensorflow") is not None and find_spec("keras") is not None


def loads_on_demand() -> bool:
    """Whether this process loads TensorFlow only when it imports a part that needs it.

    So does the command `keras-tfcl`, most of which serves, and any process with `KERAS_TFCL_ON_DEMAND=1` set.
    """
    program = Path(sys.argv[0]).stem if getattr(sys, "argv", None) else ""
    return program == "keras-tfcl" or os.environ.get("KERAS_TFCL_ON_DEMAND") == "1"


def require_tensorflow_backend() -> None:
    """Raises ImportError if Keras runs on another backend."""
    import keras

    if keras.config.backend() != "tensorflow":
        raise ImportError(
            "keras_tfcl needs Keras' TensorFlow backend. Received: backend "
            f"{keras.config.backend()!r}. Set the environment variable KERAS_BACKEND=tensorflow before importing Keras."
        )


def explain_missing_tensorflow(name: str) -> ImportError:
    """The error for a name that needs TensorFlow."""
    return ImportError(
        f"{name} needs TensorFlow, which is not installed; only keras_tfcl.export.OnnxEncoder works without. "
        'Install it with: pip install "keras-tfcl[tf]" (or [tf-gpu]).'
    )


class ExplainMissingTensorFlow(MetaPathFinder):
    """Answers the import of a part that needs TensorFlow with the error above, where TensorFlow is missing."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        package, _, rest = name.partition(".")
        if package == "keras_tfcl" and rest and rest.partition(".")[0] not in WORKS_WITHOUT_TENSORFLOW:
            raise explain_missing_tensorflow(name)

    @classmethod
    def install(cls) -> None:
        """Puts the explanation in front of Python's own finders."""
        sys.meta_path.insert(0, cls())
