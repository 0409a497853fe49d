"""Write a file so that a process that is killed at any time leaves either the old file or the complete new one.

The new file is written in a hidden folder next to its target and moved at the end. The folder may also hold the
external data of a model. It is locked while the process lives. A folder without a lock was left by a killed process,
and the next write to the same target removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: Path, replace: bool = True) -> Iterator[Path]:
    """Give a temporary path. All files written there and beside it move to `path` unless the block raises.

    With `replace=False` a file that is there by then stays, and the new one is dropped.

    Several processes and threads may write to one path at the same time: each has a folder of its own, and the last
    one that ends is kept.

    Raises:
        ValueError, FileNotFoundError, IsADirectoryError: as `check_target`.
        OSError: the disk is full, in words.
    """
    check_target(path)
    with _full_disk_in_words(path), contextlib.ExitStack() as stack:
        with _locked(path.parent):  # or another process could take a folder that has no lock yet for abandoned
            _remove_abandoned(path)
            folder = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
            folder.mkdir()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(_locked(folder))
        yield folder / path.name
        _move(folder, path, replace)


@contextlib.contextmanager
def _full_disk_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno)} for {path}. It was not written, and what was there before is unchanged. Free "
            "some space and try again.",
        ) from error


def write_atomically(path: str | os.PathLike[str], content: bytes, replace: bool = True) -> None:
    """Write a small file as `atomic_write` does. Its folder is made if it does not exist."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, replace) as draft:
        draft.write_bytes(content)


def check_target(path: Path) -> None:
    """Raise unless a file can be called `path`.

    Raises:
        ValueError: its path is not Unicode.
        FileNotFoundError: its folder does not exist.
        IsADirectoryError: it is a folder.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:  # onnxruntime and JSON could not name it
        raise ValueError(
            f"The path of a file to write must be Unicode. Received: {os.fspath(path)!r}. Rename its folder."
        ) from error
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"The folder of a file to write must exist. Received: {path}. Create {path.parent} first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"A file to write must not be a folder. Received: {path}. Name a file in it.")


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _move(folder: Path, path: Path, replace: bool) -> None:
    """Move the files of `folder` beside `path`, the one called `path.name` last, and drop older external data.

    Until that last move an old model stays whole, since the name of its external data follows from their content.
    """
    others = [file for file in folder.iterdir() if file.name != path.name]
    with _locked(path.parent):  # or another process could take new external data, whose model is yet to come, for old
        if path.exists() and not replace:
            return
        for file in others:
            os.replace(file, path.with_name(file.name))
        os.replace(folder / path.name, path)
        _sync(path.parent)
        _remove_older_data(path, keep={file.name for file in others})


def _remove_abandoned(path: Path) -> None:
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), _locked(folder, wait=False):  # OSError: a living process holds the lock
            shutil.rmtree(folder, ignore_errors=True)


def _remove_older_data(path: Path, keep: set[str]) -> None:
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.data")
    for file in path.parent.iterdir():
        if pattern.fullmatch(file.name) and file.name not in keep:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def locked_file(path: Path, wait: bool = True) -> Iterator[None]:
    """Wait until no other process holds this lock of a file or folder. The block may replace it by `atomic_write`.

    Raises:
        FileNotFoundError: there is no such file.
        BlockingIOError: another process holds it, and `wait` is False.
    """
    while True:
        with _locked(path, wait) as handle:
            if os.path.samestat(os.fstat(handle), path.stat()):  # else another process has replaced it meanwhile
                yield
                return


@contextlib.contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield handle
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
