"""Which hardware is asked of onnxruntime, and which it really uses.

`onnxruntime.get_available_providers()` describes the build, not the machine: without a GPU the GPU wheel lists CUDA and
then runs on the CPU without a word. Only a session's own `get_providers()` tells the truth.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

from keras_tfcl.export.errors import ProviderError, ProviderWarning
from keras_tfcl.export.runtime.requirements import installed_versions, require

_SUFFIX = "ExecutionProvider"
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_NEEDS_CUDA = {_CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"}
_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm")

Providers = str | Sequence[str | tuple[str, Mapping[str, object]]]


def installed_wheels() -> dict[str, str]:
    """Return the versions of the installed wheels of onnxruntime. More than one is a fault: they share one folder."""
    return installed_versions(*_WHEELS)


def repair_wheels(wheels: Iterable[str]) -> str:
    """Say how to get from several wheels of onnxruntime to one that works."""
    names = sorted(wheels)
    return f"Repair: pip uninstall -y {' '.join(names)} && pip install the one you need, {' or '.join(names)}."


def load_onnxruntime() -> ModuleType:
    """Import onnxruntime, and warn when several of its wheels overwrote one another.

    Raises:
        ImportError: onnxruntime is missing, or broken by a second wheel.
    """
    ort = require("onnxruntime", "serve")
    wheels = sorted(installed_wheels())
    if not hasattr(ort, "InferenceSession"):
        raise ImportError(
            f"Expected a working onnxruntime. Received: one without InferenceSession, from {wheels}. "
            f"{repair_wheels(wheels)}"
        )
    if len(wheels) > 1:
        warnings.warn(
            f"Expected one onnxruntime wheel. Received: {wheels}, which share one folder, so that the last one "
            f"installed won. {repair_wheels(wheels)}",
            ProviderWarning,
            stacklevel=4,
        )
    return ort


def choose_providers(ort: ModuleType, providers: Providers) -> dict[str, dict[str, object]]:
    """Return the full names of the providers asked for, in order, each with its options.

    `"auto"` is CUDA where this build has it, then the CPU.

    Raises:
        ValueError: a name that onnxruntime does not know.
    """
    if isinstance(providers, str) and providers == "auto":
        return {name: {} for name in (_CUDA, _CPU) if name in ort.get_available_providers()}
    known = {name.removesuffix(_SUFFIX).lower(): name for name in ort.get_all_providers()}
    wanted: dict[str, dict[str, object]] = {}
    for entry in [providers] if isinstance(providers, str) else providers:
        name, options = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, {})
        wanted[known.get(str(name).removesuffix(_SUFFIX).lower(), "")] = dict(options)
    if not wanted or "" in wanted:
        raise ValueError(
            f"`providers` must be 'auto' or names of execution providers. Received: providers={providers!r}. "
            f"Known names: {', '.join(sorted(known))}."
        )
    return wanted


def startable_providers(
    ort: ModuleType, wanted: Mapping[str, Mapping[str, object]]
) -> list[str | tuple[str, Mapping[str, object]]]:
    """Load the libraries of the providers that this build can try, and return these in order, with the CPU."""
    built = ort.get_available_providers()
    if _NEEDS_CUDA & set(wanted) & set(built) and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it reports missing libraries by print
            ort.preload_dlls()
    chosen = {name: options for name, options in wanted.items() if name in built}
    chosen.setdefault(_CPU, {})  # the last, unless the caller placed it
    return [(name, options) if options else name for name, options in chosen.items()]


def check_providers(wanted: Iterable[str], actual: Sequence[str], strict: bool) -> None:
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
