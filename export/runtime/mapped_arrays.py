"""Arrays of `.npy` and uncompressed `.npz` files, mapped into memory and not read.

A file is opened once: another process may replace it meanwhile, and parts of two files would be wrong numbers.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np


def map_npy(path: Path) -> np.ndarray:
    """Return the array in a `.npy` file.

    Raises:
        ValueError: it is no such file, or holds objects.
    """
    with path.open("rb") as file:
        return _map(file)


def map_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays in an uncompressed `.npz` file by name.

    Raises:
        ValueError, zipfile.BadZipFile: it is no such file, or holds objects.
    """
    arrays = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{info.filename} is compressed")
            file.seek(info.header_offset + 26)  # a local header has 30 bytes, then a name and extra fields
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            file.seek(info.header_offset + 30 + name + extra)
            arrays[info.filename.removesuffix(".npy")] = _map(file)
    return arrays


def _map(file: BinaryIO) -> np.ndarray:
    """The array that begins where `file` stands."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds objects and not numbers")
    order: Literal["C", "F"] = "F" if fortran else "C"
    return np.memmap(file, dtype, "r", file.tell(), shape, order) if np.prod(shape) else np.empty(shape, dtype, order)
