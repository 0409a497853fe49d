"""What a training run was asked to do and what it found, in its run.json."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from keras_tfcl import __version__
from keras_tfcl.atomic_write import locked_file, write_atomically
from keras_tfcl.data.image_source import ImageFiles

FILE = "run.json"
OUTPUTS = ("model.keras", "encoder.onnx", "report.html", "neighbours.png", "history.json")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is asked to do; None stands for a choice made from the images."""

    source: str
    backbone: str
    weights: str | None
    image_size: int
    epochs: int
    batch_size: int | None
    learning_rate: float | None
    loss: str
    temperature: float | None
    scale: float | None
    min_area: float
    flip: bool
    strength: float
    seed: int


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder; empty if there is none, or none that can be read."""
    try:
        return dict(json.loads((folder / FILE).read_text())["settings"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


class RunRecord:
    """The record of a run in its folder.

    Args:
        folder: of the run; need not exist.
        settings: with every choice made.
        files: the images.

    Raises:
        ValueError: the folder holds a run with other settings or images, or files of another origin.
    """

    def __init__(self, folder: Path, settings: Settings, files: ImageFiles) -> None:
        self._path = folder / FILE
        self._asked: dict[str, Any] = {"settings": dataclasses.asdict(settings), "data": hash_of(files)}
        self._recorded = self._read()

    @contextlib.contextmanager
    def by_one_process(self) -> Iterator[None]:
        """Writes what the run is asked to do, and keeps other processes from it, which would replace its files.

        Raises:
            ValueError: another process trains it.
        """
        if not self._path.exists():
            versions = {name: metadata.version(name) for name in ("keras", "tensorflow", "numpy")}
            versions |= {"keras_tfcl": __version__, "python": platform.python_version()}
            self._write(self._asked | {"versions": versions}, replace=False)  # of a process that starts as well
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked_file(self._path, wait=False))
            except BlockingIOError as error:
                raise ValueError(
                    f"One process at a time can train a run. Received: {self._path.parent}, where another one is at "
                    f"work. Wait for its end, or give another folder."
                ) from error
            self._recorded = self._read()  # another process may have begun the run meanwhile
            yield

    def end(self, result: Mapping[str, object]) -> None:
        """Writes what the run found."""
        self._write(self._recorded | {"result": result})

    def _write(self, content: Mapping[str, object], replace: bool = True) -> None:
        write_atomically(self._path, (json.dumps(content, indent=2) + "\n").encode(), replace)

    def result(self) -> dict[str, Any] | None:
        """What the run found, or None while it is not complete."""
        complete = all((self._path.parent / name).is_file() for name in OUTPUTS)
        return self._recorded.get("result") if complete else None

    def _read(self) -> dict[str, Any]:
        folder = self._path.parent
        if not self._path.exists():
            foreign = [name for name in OUTPUTS if (folder / name).exists()]
            if foreign:
                raise ValueError(
                    f"A run must have a folder of its own. Received: {folder}, which holds {', '.join(foreign)} but no "
                    f"{FILE}. Give another folder."
                )
            return {}
        try:
            recorded = json.loads(self._path.read_text())
            before, data = dict(recorded["settings"]), recorded["data"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{FILE} must be as `train` wrote it. Received: {self._path}: {type(error).__name__}: {error}. Give "
                "another folder."
            ) from error
        changed = ["other images"] if data != self._asked["data"] else []
        for name, now in self._asked["settings"].items():
            if name != "source" and now != before.get(name):  # the images may have moved
                changed.append(f"{_option(name, now)}, before {_option(name, before.get(name))}")
        if changed:
            raise ValueError(
                f"A run continues with the settings and the images it began with. Received: {'; '.join(changed)}, for "
                f"the run in {folder}. Give what its {FILE} says, or another folder."
            )
        return recorded


def _option(name: str, value: object) -> str:
    """An option as one types it."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{option}"
    return f"--{option} {value}"


def hash_of(files: ImageFiles) -> str:
    """SHA-256 of the names and sizes of all images."""
    digest = hashlib.sha256()
    for name, path, size in zip(files.names, files.paths, files.sizes, strict=True):
        digest.update(f"{name}\0{_file_size(path) if size < 0 else size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _file_size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # such as a link to nowhere, which is skipped later
        return -1
