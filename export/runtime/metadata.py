"""The JSON metadata of an exported file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TypedDict

from keras_tfcl.export.errors import ModelFileError

KEY = "keras_tfcl"
TRACE = b'"metadata_hash": "sha256:'  # occurs in every text of `dump_metadata`
SCHEMA = 1
_MOST_NOTES = 1 << 15
_TYPES = {  # of what readers use; a file from elsewhere may hold anything
    "inputs": list,
    "preprocessing": dict,
    "dimension": int,
    "normalized": bool,
    "projector": str,
    "tokenizer": str,
    "weights_sha256": str,
    "versions": dict,
    "parity": dict,
    "probes": list,
    "notes": dict,
    "data_file": dict,
    "content_hash": str,
    "metadata_hash": str,
    "quantization": dict,
}


class Metadata(TypedDict, total=False):
    """What a file says about itself: the keys that readers use, of the types that `parse_metadata` has checked."""

    schema: int
    inputs: list[dict[str, object]]
    preprocessing: Preprocessing
    dimension: int
    normalized: bool
    projector: str
    tokenizer: str
    weights_sha256: str
    versions: dict[str, str]
    parity: dict[str, object]
    probes: list[GoldenBatch]
    notes: Mapping[str, object]
    data_file: DataFile
    content_hash: str
    metadata_hash: str
    quantization: dict[str, object]


class Preprocessing(TypedDict, total=False):
    """What an image must be, as far as the model says, and the layers inside the file that prepare inputs."""

    layout: str
    size: list[int | None]
    range: list[int] | None
    inside: list[dict[str, object]]


class DataFile(TypedDict):
    """The file beside the model that holds its weights."""

    name: str
    bytes: int
    sha256: str


class GoldenBatch(TypedDict):
    """The generators of some golden inputs by name, and the embeddings as float32 in base64."""

    inputs: dict[str, dict[str, object]]
    embeddings: str


def dump_metadata(content: Mapping[str, object]) -> str:
    """Return `content` as the text stored under `KEY`, with the version of its schema and its own hash."""
    whole = {"schema": SCHEMA, **content}
    return _json({**whole, "metadata_hash": metadata_hash(whole)})


def metadata_hash(content: Mapping[str, object]) -> str:
    """Return `"sha256:<hex>"` of all metadata but the hash itself."""
    covered = {name: value for name, value in content.items() if name != "metadata_hash"}
    return f"sha256:{hashlib.sha256(_json(covered).encode()).hexdigest()}"


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(content, sort_keys=True, allow_nan=False)


def check_notes(notes: Mapping[str, object] | None) -> None:
    """Raise unless `notes` can be stored beside the rest.

    Raises:
        TypeError: they are not a mapping of names to what JSON holds.
        ValueError: they are longer than 32 KiB, or hold NaN or infinity.
    """
    if notes is None:
        return
    if not isinstance(notes, Mapping) or not all(isinstance(name, str) for name in notes):
        raise TypeError(
            f"`notes` must be a dict with names as keys. Received: {type(notes).__name__}. "
            f'Write for example notes={{"channels": "RGB"}}.'
        )
    try:
        length = len(json.dumps(dict(notes), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`notes` must be what JSON can hold. Received: {error}. Convert with int(), float() or str()."
        ) from error
    if length > _MOST_NOTES:
        raise ValueError(
            f"`notes` must be at most {_MOST_NOTES} characters as JSON. Received: {length}. Keep long texts elsewhere."
        )


def parse_metadata(text: str | None, path: object) -> Metadata:
    """Return the metadata of the file at `path`; `{}` for a file that this library did not write.

    Raises:
        ModelFileError: the text is not what `dump_metadata` writes, or a newer version of it, or was changed.
    """
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"The metadata `{KEY}` of {path} must be JSON. Received: text that does not parse ({error}). Export again."
        ) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise ModelFileError(
            f"The metadata `{KEY}` of {path} must be an object with an integer `schema`. Received: schema={schema!r}. "
            f"Export again."
        )
    if schema > SCHEMA:
        raise ModelFileError(
            f"This keras_tfcl reads metadata up to schema {SCHEMA}. Received: schema {schema} in {path}. "
            f"Upgrade with: pip install -U keras-tfcl"
        )
    wrong = [name for name, kind in _TYPES.items() if name in content and not isinstance(content[name], kind)]
    if wrong:
        raise ModelFileError(
            f"The metadata `{KEY}` of {path} must hold the types that export_onnx writes. Received: "
            f"{', '.join(f'{name} of type {type(content[name]).__name__}' for name in wrong)}. Export again."
        )
    if "metadata_hash" in content and content["metadata_hash"] != metadata_hash(content):
        raise ModelFileError(
            f"The metadata `{KEY}` of {path} must be those that were exported. Received: metadata "
            "that do not match their hash. Copy or export the file again. If you changed them on purpose, leave out "
            "`metadata_hash`."
        )
    return content
