"""Files that get their name only when they are complete."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give a draft beside `path` that takes its name when the block ends well, and vanishes otherwise.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        IsADirectoryError: `path` is a folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"The folder of a file to write must exist. Received: {path}. Make {path.parent} first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"A file to write must not be a folder. Received: {path}. Name a file in it.")
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
