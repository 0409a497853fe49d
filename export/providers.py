"""Which hardware is asked of onnxruntime, and which it really uses.

`onnxruntime.get_available_providers()` describes the build, not the machine: without a GPU the GPU wheel lists CUDA and
then runs on the CPU without a word. Only a session's own `get_providers()` tells the truth.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from types import ModuleType

from keras_tfcl.export.errors import ProviderError, ProviderWarning
from keras_tfcl.export.requirements import installed_versions, require

_SUFFIX = "ExecutionProvider"
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm")


def load_onnxruntime() -> ModuleType:
    """Import onnxruntime, and warn when several of its wheels overwrote one another.

    Raises:
        ImportError: onnxruntime is missing, or broken by a second wheel.
    """
    ort = require("onnxruntime", "serve")
    wheels = sorted(installed_versions(*_WHEELS))
    repair = f"Repair: pip uninstall -y {' '.join(wheels)} && pip install the one you need, {' or '.join(wheels)}."
    if not hasattr(ort, "InferenceSession"):
        raise ImportError(
            f"Expected a working onnxruntime. Received: one without InferenceSession, from {wheels}. {repair}"
        )
    if len(wheels) > 1:
        warnings.warn(
            f"Expected one onnxruntime wheel. Received: {wheels}, which share one folder, so that the last one "
            f"installed won. {repair}",
            ProviderWarning,
            stacklevel=4,
        )
    return ort


def choose_providers(ort: ModuleType, providers: str | Sequence[str]) -> list[str]:
    """Return the full names of the providers asked for. `"auto"` is CUDA where this build has it, then the CPU.

    Raises:
        ValueError: a name that onnxruntime does not know.
    """
    if providers == "auto":
        return [_CUDA, _CPU] if _CUDA in ort.get_available_providers() else [_CPU]
    known = {name.removesuffix(_SUFFIX).lower(): name for name in ort.get_all_providers()}
    names = [providers] if isinstance(providers, str) else list(providers)
    wanted = [known.get(str(name).removesuffix(_SUFFIX).lower()) for name in names]
    if not wanted or None in wanted:
        raise ValueError(
            f"`providers` must be 'auto' or names of execution providers. Received: providers={providers!r}. "
            f"Known names: {', '.join(sorted(known))}."
        )
    return wanted


def startable_providers(ort: ModuleType, wanted: Sequence[str]) -> list[str]:
    """Return those of `wanted` that this build can try, always ending in the CPU, with their libraries loaded."""
    built = ort.get_available_providers()
    if _CUDA in wanted and _CUDA in built:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports missing libraries by print
            ort.preload_dlls()
    return [name for name in wanted if name in built and name != _CPU] + [_CPU]


def check_providers(wanted: Sequence[str], actual: Sequence[str], strict: bool) -> None:
    """Warn, or raise when `strict`, if a provider asked for does not run the model.

    Raises:
        ProviderError: `strict` and one is missing.
    """
    missing = [name for name in wanted if name not in actual]
    if not missing:
        return
    message = (
        f"Expected the execution providers {list(wanted)}. Received: {list(actual)}; not used: {', '.join(missing)}. "
        f'For CUDA install "keras-tfcl[serve-gpu]" alone in its own environment on a host with an NVIDIA driver; '
        f"to run on the CPU say providers='cpu'."
    )
    if strict:
        raise ProviderError(message)
    warnings.warn(message, ProviderWarning, stacklevel=4)
