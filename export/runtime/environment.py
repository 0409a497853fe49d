"""Is this environment fit to export or to serve? What `keras-tfcl doctor` prints."""

from __future__ import annotations

import contextlib
import io
import platform
from dataclasses import asdict, dataclass
from types import ModuleType

from keras_tfcl.export.runtime.providers import choose_providers, installed_wheels, repair_wheels, startable_providers
from keras_tfcl.export.runtime.requirements import installed_versions, require

_PACKAGES = (
    "keras-tfcl", "numpy", "onnxruntime", "onnxruntime-gpu", "onnx", "tf2onnx", "keras", "tensorflow", "pillow",
    "pyarrow", "tokenizers", "typer", "rich",
)  # fmt: skip
_CUDNN = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
# The smallest model, y = Identity(x) with x of shape (1,), so that sessions can be tried without the package `onnx`.
_VALUE = b"\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01"  # its type: float, shape (1,)
_GRAPH = (
    b"\x0a\x10\x0a\x01x\x12\x01y\x22\x08Identity"
    + b"\x12\x01g"
    + (b"\x5a\x0f\x0a\x01x" + _VALUE)
    + (b"\x62\x0f\x0a\x01y" + _VALUE)
)
SMALLEST_MODEL = b"\x08\x08\x3a" + bytes([len(_GRAPH)]) + _GRAPH + b"\x42\x02\x10\x11"


@dataclass(frozen=True)
class Environment:
    """The packages installed here, and their faults.

    Attributes:
        python: version and platform.
        versions: of the packages that are installed.
        built: execution providers that this onnxruntime was built with.
        working: the ones that a session really uses here.
        problems: what to repair, in sentences; empty when all is well.
        debug: what `onnxruntime.print_debug_info()` says; empty where it does not exist.
    """

    python: str
    versions: dict[str, str]
    built: tuple[str, ...]
    working: tuple[str, ...]
    problems: tuple[str, ...]
    debug: str

    def to_dict(self) -> dict[str, object]:
        """Return it in types that JSON has."""
        return asdict(self)

    def __str__(self) -> str:
        versions = "\n".join(f"  {name:<16} {version}" for name, version in self.versions.items())
        problems = "\n".join(f"  - {problem}" for problem in self.problems) or "  none"
        return (
            f"Python {self.python}\n{versions}\nexecution providers\n  built   {', '.join(self.built) or 'none'}\n"
            f"  working {', '.join(self.working) or 'none'}\nproblems\n{problems}"
        )


def check_environment() -> Environment:
    """Look at the installed packages and try each execution provider with a tiny model. Imports no TensorFlow."""
    problems = _package_problems()
    built: tuple[str, ...] = ()
    working: tuple[str, ...] = ()
    debug = ""
    try:
        ort = require("onnxruntime", "serve")
        built = tuple(ort.get_available_providers())
        working = tuple(name for name in built if _works(ort, name))
        debug = _debug_info(ort)
    except (ImportError, AttributeError) as error:  # AttributeError: a wheel half removed by another
        problems.append(f"onnxruntime does not work: {error}.")
    if "CUDAExecutionProvider" in set(built) - set(working):
        problems.append(
            "onnxruntime is built for CUDA but runs on the CPU. It needs an NVIDIA driver and CUDA 13 libraries: "
            'pip install "keras-tfcl[serve-gpu]", alone in its environment.'
        )
    return Environment(
        f"{platform.python_version()} on {platform.platform()}", installed_versions(*_PACKAGES), built, working,
        tuple(problems), debug,
    )  # fmt: skip


def _package_problems() -> list[str]:
    problems, wheels = [], installed_wheels()
    if len(wheels) > 1:
        problems.append(f"{len(wheels)} wheels of onnxruntime overwrote one another. {repair_wheels(wheels)}")
    if len(installed_versions(*_CUDNN)) > 1:
        problems.append(
            f"{' and '.join(_CUDNN)} share their files, so that TensorFlow or onnxruntime finds the other's. "
            f"Train and serve on a GPU in two environments."
        )
    return problems


def _works(ort: ModuleType, name: str) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # onnxruntime prints when it falls back
            providers = startable_providers(ort, choose_providers(ort, name))
            return name in ort.InferenceSession(SMALLEST_MODEL, options, providers=providers).get_providers()
    except Exception:  # onnxruntime's exceptions share no public base class
        return False


def _debug_info(ort: ModuleType) -> str:
    printed = io.StringIO()
    if hasattr(ort, "print_debug_info"):
        with contextlib.redirect_stdout(printed), contextlib.suppress(Exception):  # a report must not fail itself
            ort.print_debug_info()
    return printed.getvalue()
