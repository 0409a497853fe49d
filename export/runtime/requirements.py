"""Import optional packages, and say how to install the ones that are missing."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which `keras-tfcl[extra]` installs.

    Raises:
        ImportError: the module cannot be imported; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This needs the package `{module.partition('.')[0]}`, which could not be imported ({error}). "
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
