"""The one JSON value that an exported file carries about itself."""

from __future__ import annotations

import json
from typing import Any

from keras_tfcl.export.errors import ModelFileError

KEY = "keras_tfcl"
SCHEMA = 1


def dump_metadata(content: dict[str, Any]) -> str:
    """Return `content` as the text stored under `KEY`, with the version of its schema."""
    return json.dumps({"schema": SCHEMA} | content, sort_keys=True, allow_nan=False)


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
    return content
