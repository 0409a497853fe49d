"""The second file of a model whose weights pass protobuf's limit of 2 GiB for one file.

ONNX lets a tensor name any file as the place of its values. Here it can only be one file, in the model's own folder,
whose name, size and SHA-256 stand in the model's metadata.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_tfcl.export.errors import ModelFileError

_PAGE = 4096  # onnxruntime maps tensors that begin on a page instead of copying them
_CHUNK = 1 << 22
_NAME = re.compile(r"[^/\\\0]+\.[0-9a-f]{16}\.data")


@dataclass(frozen=True)
class DataFile:
    """What the metadata records about the data file."""

    name: str
    bytes: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_data_file(folder: Path, stem: str, arrays: Iterable[np.ndarray]) -> tuple[DataFile, list[tuple[int, int]]]:
    """Write `arrays` one after the other; return the record, and offset and length of each.

    The name follows from the content, so a new data file never overwrites the one of an older model.
    """
    draft = folder / f"{stem}.data"
    digest, spans = hashlib.sha256(), []
    with draft.open("wb") as file:
        for array in arrays:
            padding = -file.tell() % _PAGE
            digest.update(bytes(padding))
            file.write(bytes(padding))
            content = byte_view(array)
            spans.append((file.tell(), len(content)))
            digest.update(content)
            file.write(content)
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    record = DataFile(f"{stem}.{digest.hexdigest()[:16]}.data", size, digest.hexdigest())
    os.replace(draft, folder / record.name)
    return record, spans


def byte_view(array: np.ndarray) -> memoryview:
    """Return the values as little-endian bytes, without a copy where the machine stores them so."""
    values = np.ascontiguousarray(array)
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return values.reshape(-1).view(np.uint8).data


def check_data_file(model_path: Path, locations: set[str], record: object) -> None:
    """Raise unless all `locations` are the recorded file, which lies beside the model and is whole.

    Raises:
        ModelFileError: another file is named, or the file is missing, a link, or not the recorded one.
    """
    name = str(record.get("name")) if isinstance(record, dict) else ""
    if locations != {name} or not _NAME.fullmatch(name):
        raise ModelFileError(
            f"Expected an ONNX file that holds all its tensors, or the data file of export_onnx beside it. Received: "
            f"{model_path} with external data in {sorted(locations)}, which could make the reader open any file. "
            f"Save it as one file: onnx.save(model, path, save_as_external_data=False)."
        )
    path = model_path.with_name(name)
    problem = _problem_of(path, record)
    if problem:
        raise ModelFileError(
            f"Expected the weights of {model_path} in {path.name} beside it. Received: {problem}. Copy both files "
            f"together, or export again."
        )


def _problem_of(path: Path, record: dict[str, Any]) -> str | None:
    try:
        status = path.lstat()
    except OSError:
        return "no such file"
    if not stat.S_ISREG(status.st_mode):
        return "a link or folder of that name"
    if status.st_size != record.get("bytes"):
        return f"{status.st_size} bytes instead of {record.get('bytes')}"
    if _hash_of(path) != record.get("sha256"):
        return "a file with another SHA-256"
    return None


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
