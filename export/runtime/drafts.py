"""Single files that get their name only when they are complete."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from keras_tfcl.export.runtime.publish import draft_folder, publish


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give a draft that takes the name `path` when the block ends well, and vanishes otherwise.

    Raises:
        FileNotFoundError, IsADirectoryError: as `check_target`.
    """
    check_target(path)
    with draft_folder(path) as folder:
        yield folder / path.name
        publish(folder, path)


def check_target(path: Path) -> None:
    """Raise unless a file can be called `path`.

    Raises:
        FileNotFoundError: its folder does not exist.
        IsADirectoryError: it is a folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"The folder of a file to write must exist. Received: {path}. Make {path.parent} first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"A file to write must not be a folder. Received: {path}. Name a file in it.")
