"""Arguments that several commands share, and what they mean."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import typer

from keras_tfcl.export.errors import InputError
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.image_folder import images_in
from keras_tfcl.export.runtime.mapped_arrays import map_npy

TEXT_SUFFIX = ".txt"
ROW_SUFFIXES = (".npy", ".npz")

Encoder = Annotated[
    Path,
    typer.Argument(metavar="FILE", exists=True, help="An exported .onnx file, or a folder of sentence-transformers."),
]
OnnxFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An exported .onnx file.")]
NewOnnxFile = Annotated[Path, typer.Argument(help="The .onnx file to write.")]
Import = Annotated[
    list[str],
    typer.Option("--import", help="Module that registers classes of your own, such as my.layers; may be repeated."),
]
NO_MODULES: list[str] = []  # what `--import` is by default
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress bar.")]
Provider = Annotated[
    list[str], typer.Option("--provider", help="cpu, cuda, ...; repeat the option in order of preference. [auto]")
]
AUTO: list[str] = []  # what `--provider` is by default
Strict = Annotated[bool, typer.Option("--strict", help="Fail if a requested provider does not run the model.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads inside one run. [onnxruntime's choice]")]
Samples = Annotated[
    Path | None, typer.Option(exists=True, help="Real samples: a .npy or .npz file, or a folder of images.")
]


class Report(Protocol):
    """A report: text by `str`, numbers and text for JSON by `to_dict`."""

    def to_dict(self) -> dict[str, object]: ...


def show(report: Report, as_json: bool, ok: bool = True) -> None:
    """Print a report: its text, or its `to_dict()` as JSON with `ok`, False for an exit code of 1."""
    print(json.dumps(report.to_dict() | {"ok": ok}) if as_json else report)


def providers_of(names: Sequence[str]) -> str | list[str]:
    """Return what `OnnxEncoder` takes for the names given on the command line."""
    return list(names) or "auto"


def in_one_line(message: object) -> str:
    """Return a message without its line breaks."""
    return " ".join(str(message).split())


def read_rows(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """Return the rows of a `.npy` file, mapped into memory, or of an `.npz` file, by name if it has several arrays.

    Raises:
        InputError: it is another file.
    """
    try:
        if path.suffix not in ROW_SUFFIXES:
            raise ValueError(f"its suffix is {path.suffix!r}")
        if path.suffix == ".npy":
            return map_npy(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return next(iter(arrays.values())) if len(arrays) == 1 else arrays
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"Expected a .npy file of numbers, or an .npz file with an array for each input. Received: {path}: "
            f"{error}. Save one array with numpy.save(path, x), several with numpy.savez(path, name=x, other_name=y)."
        ) from error


def read_input(paths: Sequence[Path]) -> np.ndarray | dict[str, np.ndarray] | list[Path] | list[str]:
    """Return the rows of one `.npy` or `.npz` file, the lines of one `.txt` file, or image files and those in folders.

    Raises:
        InputError: it is neither, or a folder holds no images.
    """
    if len(paths) == 1 and paths[0].suffix in ROW_SUFFIXES:
        return read_rows(paths[0])
    if len(paths) == 1 and paths[0].suffix == TEXT_SUFFIX:
        return read_texts(paths[0])
    files = [file for path in paths for file in (_files_in(path) if path.is_dir() else [path])]
    if not files or any(file.suffix in (*ROW_SUFFIXES, TEXT_SUFFIX) for file in files):
        raise InputError(
            f"Expected one .npy, .npz or .txt file, image files, or folders with images. Received: "
            f"{', '.join(map(str, paths))}."
        )
    return files


def _files_in(folder: Path) -> list[Path]:
    """Return the images in a folder, with links to nowhere, but without pipes, which one would wait for."""
    return [path for path in map(Path, images_in(folder)) if path.is_file() or not path.exists()]


def read_samples(path: Path, encoder: OnnxEncoder) -> np.ndarray | dict[str, np.ndarray]:
    """Return the rows of a `.npy` or `.npz` file, or texts or the images in a folder as rows for the encoder."""
    if path.suffix == TEXT_SUFFIX:
        return encoder.tokenize(read_texts(path))
    rows = read_input([path])
    return np.stack([encoder.read_image(file) for file in rows]) if isinstance(rows, list) else rows


def read_texts(path: Path) -> list[str]:
    """Return the lines of a text file.

    Raises:
        InputError: it is not UTF-8, or holds no line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")  # no other ends of lines
    except UnicodeDecodeError as error:
        raise InputError(f"A .txt file must be UTF-8. Received: {path}: {error}. Convert it with iconv.") from error
    if lines == [""]:
        raise InputError(
            f"A .txt file must hold one text per line. Received: {path}, which is empty. Write a text into it."
        )
    return lines
