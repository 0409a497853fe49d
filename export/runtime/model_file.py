"""Look into an ONNX file before onnxruntime does: is it whole, and which other files would it open?

An ONNX tensor may name another file that holds its values. Served files come from elsewhere, so such a name is
checked before anything follows it: it can only be one file, in the model's own folder, whose name, size and SHA-256
stand in the model's metadata. The walk reads only the protobuf framing, which needs no `onnx` package.

Source: https://protobuf.dev/programming-guides/encoding and the message numbers of onnx.proto.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from keras_tfcl.export.errors import ModelFileError
from keras_tfcl.export.runtime.metadata import KEY, TRACE, Metadata, parse_metadata

# message -> field number -> the message in that field; fields that cannot hold a tensor are not descended into
_CHILDREN = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_GRAPH_FIELD = 7  # ModelProto.graph
_METADATA_FIELD = 14  # ModelProto.metadata_props
_EXTERNAL_FIELD, _LOCATION_FIELD = 13, 14  # TensorProto.external_data, TensorProto.data_location
_UNNAMED = "an unnamed file"
_DATA_FILE = re.compile(r"[^/\\\0]+\.[0-9a-f]{16}\.data")  # the name that `export_onnx` gives to external data
_MAX_DEPTH = 64
_MAX_KEY = 1 << 32  # a reader that cuts longer keys to 32 bits would see other fields than this walk
T = TypeVar("T")


def read_unchanged(path: Path, read: Callable[[], T]) -> T:
    """Return `read()`, which opens the file at `path` several times; again if another process replaces it meanwhile."""
    while True:
        before = version_of(path)
        try:
            found = read()
        except ModelFileError:
            if version_of(path) == before:
                raise
        else:
            if version_of(path) == before:
                return found


def version_of(path: Path) -> tuple[int, ...]:
    """What differs after a file has been replaced, written again or removed."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_model_file(path: Path) -> Metadata:
    """Return the metadata of a whole, unchanged ONNX file that opens no other file than its own external data.

    Files without a hash in their metadata, which other tools wrote, are taken as they are.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: it is a folder, empty, truncated, not ONNX, changed since its export, has metadata that are not
            those of `export_onnx`, or keeps tensors in files that it may not open.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Export one with keras_tfcl.export.export_onnx(model, path).")
    if not path.is_file() or path.stat().st_size == 0:
        kind = "an empty file" if path.is_file() else "a folder"
        raise ModelFileError(f"Expected an ONNX file. Received: {kind}, {path}. Give the path of an exported file.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            locations = set(_locations(data, 0, len(data), "Model", depth=0))
            has_graph = any(field == _GRAPH_FIELD for field, *_ in _fields(data, 0, len(data)))
            text = _metadata_text(data)
        except _FramingError:
            has_graph = False
        if not has_graph:
            raise ModelFileError(f"Expected a whole ONNX file. Received: {path}, truncated or not ONNX. Export again.")
        if text is None and data.find(TRACE) >= 0:  # without them, the file would pass for one of another tool
            raise ModelFileError(
                f"The metadata of {path} must stand under the key `{KEY}`. Received: metadata under another key, so "
                f"the file is damaged. Copy or export it again."
            )
        metadata = parse_metadata(text, path)
        changed = "content_hash" in metadata and metadata["content_hash"] != content_hash(data)
    if locations:
        _check_external_data(path, locations, metadata.get("data_file"))
    if changed:
        raise ModelFileError(
            f"The bytes of {path} must be those that were exported. Received: content with another SHA-256 than its "
            f"metadata record. Copy or export the file again. If a tool changed it on purpose, drop the metadata "
            f"before it is saved: onnx.helper.set_model_props(model, {{}})."
        )
    return metadata


def content_hash(model: bytes | mmap.mmap) -> str:
    """Return `"sha256:<hex>"` of a serialized ONNX model: of all its bytes but the entry of our own metadata.

    The hash is itself stored in that entry, under `"content_hash"`, so it covers the graph and the weights, and what
    other tools recorded, but not what the export says about them, of which `metadata_hash` makes sure. Weights in a
    data file have their own hash.

    Args:
        model: the bytes of a whole model, such as a file mapped by `mmap`.

    Raises:
        ModelFileError: the bytes are not a protobuf message.
    """
    digest, hashed, end = hashlib.sha256(), 0, 0
    with memoryview(model) as view:
        try:
            for field, value, low, high in _fields(model, 0, len(model)):
                start, end = end, high
                if field == _METADATA_FIELD and value is None and _entry(model, low, high)[0] == KEY:
                    digest.update(view[hashed:start])
                    hashed = end
        except _FramingError as error:
            raise ModelFileError(
                "Expected the bytes of a whole ONNX model. Received: bytes that are truncated or not ONNX. "
                "Export again."
            ) from error
        digest.update(view[hashed:])
    return f"sha256:{digest.hexdigest()}"


def _check_external_data(model_path: Path, locations: set[str], record: Mapping[str, object] | None) -> None:
    """Raise unless all `locations` are the recorded file, which lies beside the model and is whole.

    Raises:
        ModelFileError: another file is named, or the file is missing, a link, or not the recorded one.
    """
    name = str(record.get("name")) if record else ""
    if not record or locations != {name} or not _DATA_FILE.fullmatch(name):
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


def _problem_of(path: Path, record: Mapping[str, object]) -> str | None:
    try:
        status = path.lstat()
    except OSError:
        return "no such file"
    if not stat.S_ISREG(status.st_mode):
        return "a link or folder of that name"
    if status.st_size != record.get("bytes"):
        return f"{status.st_size} bytes instead of {record.get('bytes')}"
    if hash_of(path) != record.get("sha256"):
        return "a file with another SHA-256"
    return None


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _FramingError(Exception):
    """The bytes are not a protobuf message."""


def _locations(data: bytes | mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    """Yield the names of files that tensors inside a message refer to."""
    if depth > _MAX_DEPTH:
        raise ModelFileError(
            f"Expected at most {_MAX_DEPTH} nested graphs. Received: a file with more. Do not trust it."
        )
    external, named = False, []
    for field, value, low, high in _fields(data, start, end):
        if message == "Tensor" and field in (_EXTERNAL_FIELD, _LOCATION_FIELD) and value != 0:
            external = True
            key, text = _entry(data, low, high) if field == _EXTERNAL_FIELD and value is None else ("", "")
            named += [text] * (key == "location")
        child = _CHILDREN[message].get(field)
        if child and value is None:
            yield from _locations(data, low, high, child, depth + 1)
    if external:
        yield from named or [_UNNAMED]


def _entry(data: bytes | mmap.mmap, start: int, end: int) -> tuple[str, str]:
    """Read a StringStringEntryProto."""
    parts = {field: data[low:high].decode("utf-8", "replace") for field, _, low, high in _fields(data, start, end)}
    return parts.get(1, ""), parts.get(2, "")


def _metadata_text(data: bytes | mmap.mmap) -> str | None:
    entries = [
        _entry(data, low, high) for field, _, low, high in _fields(data, 0, len(data)) if field == _METADATA_FIELD
    ]
    return dict(entries).get(KEY)


def _fields(data: bytes | mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int | None, int, int]]:
    """Yield (field number, value of a varint or None, start, end) of each field of a message."""
    position = start
    while position < end:
        key, position = _varint(data, position, end)
        field, wire_type = key >> 3, key & 7
        if wire_type == 0:
            low = position
            value, position = _varint(data, position, end)
            yield field, value, low, position
            continue
        if wire_type == 2:
            length, position = _varint(data, position, end)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise _FramingError
        if field == 0 or key >= _MAX_KEY or length > end - position:
            raise _FramingError
        yield field, None, position, position + length
        position += length


def _varint(data: bytes | mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise _FramingError
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _FramingError
