"""Embedding into a Parquet file by a run that may be killed and started again.

Finished rows go to small files in a folder beside the target, `.<name>.parts`. A later run reads the ids in them and in
the target, and embeds only the rest. At the end all become one file. Each file gets its name when it is complete, so
that a row is in one whole file or in none.
"""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tfcl.atomic_write import atomic_write, check_target, locked_file
from keras_tfcl.export.errors import InputError
from keras_tfcl.export.runtime.batches import OnError
from keras_tfcl.export.runtime.embedding_files import (
    Part,
    check_embedding_file,
    in_groups,
    open_parquet,
    read_ids,
    with_ids,
    write_parquet,
)
from keras_tfcl.export.runtime.typing import ImageLike

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

    from keras_tfcl.export.runtime.encoder import OnnxEncoder

PART_ROWS = 4096  # in one file of the folder: at most so many are lost


def encode_resumed(
    encoder: OnnxEncoder, x: object, path: Path, ids: Iterable[object] | None, on_error: OnError, **options: Any
) -> int:
    """Embed the rows of `x` whose ids are not in `path` yet, and return how many rows the file then has.

    Args:
        encoder: an `OnnxEncoder`.
        x: a list of images or texts, or one array.
        path: the `.parquet` file, new or from an earlier run.
        ids: one for each row, unique. Defaults to row numbers.
        on_error: as in `OnnxEncoder.encode_iter`. What is left out is tried again by the next run.
        options: of `encode_iter`.

    Raises:
        ValueError: another kind of file, or ids that are not one for each row, or not unique.
        InputError: `x` is a stream; or the earlier rows come from another encoder, have ids of another kind, or are
            being written by another process.
    """
    if check_embedding_file(path, ids).suffix != ".parquet":
        raise ValueError(f"Only a .parquet file can be resumed. Received: {path}. Change its suffix.")
    if not isinstance(x, (list, tuple, np.ndarray)):
        raise InputError(f"Only a list or an array can be resumed. Received: {type(x).__name__}. Gather it in a list.")
    check_target(path)
    names = _checked_ids(ids, len(x))
    folder = _folder(path)
    folder.mkdir(exist_ok=True)
    with _alone(folder, path):
        before = [open_parquet(path, encoder)] if path.is_file() else []
        _embed_missing(encoder, x, names, before, path, on_error, options)
        return _join(before, path, encoder)


def _folder(path: Path) -> Path:
    """Where the parts of a target are."""
    return path.with_name(f".{path.name}.parts")


@contextlib.contextmanager
def _alone(folder: Path, path: Path) -> Iterator[None]:
    """Keep other processes from the parts in `folder`: two would give their parts the same names."""
    with contextlib.ExitStack() as stack:
        try:
            (folder / "lock").touch()
            stack.enter_context(locked_file(folder / "lock", wait=False))
        except (BlockingIOError, FileNotFoundError) as error:
            raise InputError(
                f"One process at a time can resume a file. Received: {path}, to which another one writes. Wait for its "
                f"end, or give each a file of its own."
            ) from error
        yield


def _checked_ids(ids: Iterable[object] | None, count: int) -> list[int | str]:
    names: list[int | str] = (
        list(range(count))
        if ids is None
        else [int(name) if isinstance(name, (int, np.integer)) else str(name) for name in ids]
    )
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"`ids` must have one item for each row, and each only once. Received: {len(set(names))} different ones of "
            f"{len(names)}, for {count} rows."
        )
    return names


def _batches(x: np.ndarray, positions: list[int], size: int) -> Iterator[np.ndarray]:
    """The rows at some positions, of which only a batch is read from a file that is mapped."""
    for start in range(0, len(positions), size):
        yield x[positions[start : start + size]]


def _files(before: list[ParquetFile], folder: Path, encoder: OnnxEncoder) -> Iterator[ParquetFile]:
    """The files with finished rows, the target first. Parts are opened one by one, since there may be thousands."""
    yield from before
    for file in sorted(folder.glob("*.parquet")):
        yield open_parquet(file, encoder)


def _embed_missing(
    encoder: OnnxEncoder,
    x: list[ImageLike] | tuple[ImageLike, ...] | np.ndarray,
    names: list[int | str],
    before: list[ParquetFile],
    path: Path,
    on_error: OnError,
    options: dict[str, Any],
) -> None:
    folder = _folder(path)
    done = {name for file in _files(before, folder, encoder) for name in read_ids(file)}
    missing = [position for position, name in enumerate(names) if name not in done]
    if not missing:
        return
    if done and isinstance(next(iter(done)), str) is not isinstance(names[0], str):
        raise InputError(
            f"`ids` must be of one kind in all runs. Received: integers and text, of which {path} has one. Give ids of "
            f"its kind, or a new file."
        )
    left_out: dict[int, object] = {}

    def leave_out(position: int, row: object, error: Exception) -> None:
        left_out[position] = row
        if callable(on_error):
            on_error(missing[position], row, error)

    stream = encoder.encode_iter(
        _batches(x, missing, encoder.batch_size) if isinstance(x, np.ndarray) else (x[i] for i in missing),
        on_error="raise" if on_error == "raise" else leave_out,
        **options,
    )
    pairs = with_ids(stream, [names[position] for position in missing], left_out)
    try:
        _write_parts(pairs, folder, encoder)
    except InputError:
        if not done or len(left_out) < len(missing):  # else only what no run can read is missing
            raise
    if left_out and on_error == "skip":
        numbers = ", ".join(str(names[missing[position]]) for position in left_out)
        warnings.warn(f"{len(left_out)} of {len(x)} inputs are left out: {numbers}.", stacklevel=4)


def _write_parts(pairs: Iterator[Part], folder: Path, encoder: OnnxEncoder) -> None:
    first = 1 + max((int(file.stem) for file in folder.glob("*.parquet")), default=-1)
    for number, part in enumerate(in_groups(pairs, PART_ROWS), first):
        with atomic_write(folder / f"{number:08d}.parquet") as draft:
            write_parquet([part], draft, encoder)


def _join(before: list[ParquetFile], path: Path, encoder: OnnxEncoder) -> int:
    """Write the rows of all files into one, and remove the others. A run that is killed in between repeats it."""
    folder, seen = _folder(path), set()

    def rows() -> Iterator[Part]:
        for file in _files(before, folder, encoder):
            for batch in file.iter_batches():
                names = batch.column("id").to_pylist()
                vectors = batch.column("embedding").flatten().to_numpy().reshape(len(names), -1)
                new = [i for i, name in enumerate(names) if name not in seen]  # killed before the folder was removed
                seen.update(names)
                if new:
                    yield vectors[new], [names[i] for i in new]

    if any(folder.glob("*.parquet")) or not before:
        with atomic_write(path) as draft:
            count = write_parquet(rows(), draft, encoder)
    else:
        count = before[0].metadata.num_rows
    shutil.rmtree(folder, ignore_errors=True)  # another process may just make its lock there
    return count
