"""Write files beside their place and move them there at the end, so that a kill at any moment leaves old or new.

A draft folder holds the model and the data file that may belong to it. Its lock lives as long as its process: a folder
without one was left by a killed export, and the next export to the same path removes it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside `path`, which vanishes with what is left in it when the block ends."""
    _remove_abandoned(path)
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")
    folder.mkdir()
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, path: Path) -> None:
    """Move the files of a draft folder beside `path`, the one called `path.name` last, and drop older data files.

    Until that last move an old model stays whole, since a data file's name follows from its content.
    """
    others = [file for file in folder.iterdir() if file.name != path.name]
    with _locked(
        path.parent
    ):  # so that no other export takes a data file that still waits for its model for an old one
        for file in others:
            os.replace(file, path.with_name(file.name))
        os.replace(folder / path.name, path)
        _sync(path.parent)
        _remove_older_data(path, keep={file.name for file in others})


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _remove_abandoned(path: Path) -> None:
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.draft"):
        with contextlib.suppress(OSError), _locked(folder, wait=False):  # OSError: a living export holds the lock
            shutil.rmtree(folder, ignore_errors=True)


def _remove_older_data(path: Path, keep: set[str]) -> None:
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    for file in path.parent.iterdir():
        if pattern.fullmatch(file.name) and file.name not in keep:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path, wait: bool = True) -> Iterator[None]:
    import fcntl  # here, so that a machine without it can still serve

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
