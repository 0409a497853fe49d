"""The JSON metadata of an exported file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from keras_tfcl.export.errors import ModelFileError

KEY = "keras_tfcl"
SCHEMA = 1
_MOST_NOTES = 1 << 15
_TYPES = {  # of what readers use; a file from elsewhere may hold anything
    "inputs": list,
    "preprocessing": dict,
    "dimension": int,
    "normalized": bool,
    "projector": str,
    "weights_sha256": str,
    "versions": dict,
    "parity": dict,
    "probes": list,
    "notes": dict,
    "data_file": dict,
    "content_hash": str,
    "quantization": dict,
}


def dump_metadata(content: dict[str, Any]) -> str:
    """Return `content` as the text stored under `KEY`, with the version of its schema."""
    return json.dumps({"schema": SCHEMA} | content, sort_keys=True, allow_nan=False)


def check_notes(notes: Mapping[str, Any] | None) -> None:
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
    length = len(json.dumps(dict(notes), allow_nan=False))
    if length > _MOST_NOTES:
        raise ValueError(
            f"`notes` must be at most {_MOST_NOTES} characters as JSON. Received: {length}. Keep long texts elsewhere."
        )


def parse_metadata(text: str | None, path: object) -> dict[str, Any]:
    """Return the metadata of the file at `path`; `{}` for a file that this library did not write.

    Raises:
        ModelFileError: the text is not what `dump_metadata` writes, or a newer version of it.
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
    return content
