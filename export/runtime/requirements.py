"""Import optional packages, and say how to install the ones that are missing."""

from __future__ import annotations

import importlib
import os
from importlib import metadata
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which `keras-tfcl[extra]` installs.

    onnxruntime would send telemetry, and write into the home folder for it, from its import on. It is turned off here,
    where every import of onnxruntime passes; set `ORT_DISABLE_TELEMETRY=0` to leave it on.

    Raises:
        ImportError: the module cannot be imported; the message names the extra.
    """
    if module.partition(".")[0] == "onnxruntime":
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]  # `module` may be ours, and import what is missing
        raise ImportError(
            f"This needs the package `{missing}`, which could not be imported ({error}). "
            f'Install it with: pip install "keras-tfcl[{extra}]"'
        ) from error


def installed_versions(*distributions: str) -> dict[str, str]:
    """Return the versions of those `distributions` that are installed."""
    versions = {}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
