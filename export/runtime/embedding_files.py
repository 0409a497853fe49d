"""Embeddings on disk, written batch by batch: `.npy` to map into memory, `.npz` and `.parquet` with ids.

A `.npy` header leaves room for the number of rows to grow: it is written first for none and at the end for all.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING

import numpy as np

from keras_tfcl.atomic_write import atomic_write
from keras_tfcl.export.errors import InputError
from keras_tfcl.export.runtime.metadata import KEY
from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    from keras_tfcl.export.runtime.encoder import OnnxEncoder

Part = tuple[np.ndarray, list[int | str]]  # embeddings and their ids
_SUFFIXES = (".npy", ".npz", ".parquet")
_RECORDED = ("weights_sha256", "dimension", "normalized", "quantization")  # of the encoder's metadata
_ROW_GROUP = 16_384  # at least so many rows in each group of a Parquet file: small groups are slow to read


def check_embedding_file(path: str | os.PathLike[str], ids: Iterable[object] | None) -> Path:
    """Return the path, after what can be found wrong before any work.

    Raises:
        ValueError: another kind of file, or ids for `.npy`.
        ImportError: `.parquet` without pyarrow.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"Embeddings are written to {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}. Received: {path}. Change its "
            f"suffix."
        )
    if path.suffix == ".npy" and ids is not None:
        raise ValueError(f"A .npy file holds no ids. Received: ids for {path}. Write .npz or .parquet.")
    if path.suffix == ".parquet":
        require("pyarrow.parquet", "parquet")
    return path


def write_embeddings(
    parts: Iterable[np.ndarray],
    path: Path,
    encoder: OnnxEncoder,
    ids: Iterable[object] | None,
    skipped: Container[int],
) -> int:
    """Write float32 arrays `(n, D)` one after the other, and return the number of rows.

    Args:
        parts: the arrays.
        path: the file, of a kind that `check_embedding_file` accepts.
        encoder: which computes them.
        ids: one for each row of the input; None for its number. They are read part by part, after the part.
        skipped: numbers of the rows of the input that have no embedding; it grows while parts are read.

    Raises:
        ValueError: `ids` has not as many items as there are rows, or mixes integers with text.
    """
    with atomic_write(path) as draft:
        if path.suffix == ".npy":
            return _write_npy(parts, draft, encoder.dimension)
        pairs = with_ids(parts, ids, skipped)
        if path.suffix == ".npz":
            return _write_npz(pairs, draft, encoder.dimension)
        return write_parquet(pairs, draft, encoder)


def with_ids(parts: Iterable[np.ndarray], ids: Iterable[object] | None, skipped: Container[int]) -> Iterator[Part]:
    """Yield each part that has rows with their ids: integers, or text if the first is no integer, such as a path."""
    numbered = enumerate(itertools.count() if ids is None else ids)
    left = (name for number, name in numbered if number not in skipped)
    rows, text = 0, None
    for part in parts:
        taken = list(itertools.islice(left, len(part)))
        if len(taken) < len(part):
            raise ValueError(
                f"`ids` must have one item for each row. Received: {rows + len(taken)}, for at least "
                f"{rows + len(part)} rows. Pass one id for each row of `x`."
            )
        if not taken:
            continue
        rows += len(part)
        integers = [int(name) for name in taken if isinstance(name, (int, np.integer))]
        text = not isinstance(taken[0], (int, np.integer)) if text is None else text
        if integers if text else len(integers) < len(taken):
            raise ValueError(
                f"`ids` must be all integers or all text. Received: both, up to row {rows}. Use str() on all."
            )
        if integers and not -(2**63) <= min(integers) <= max(integers) < 2**63:
            raise ValueError(f"`ids` must be integers of 64 bits. Received: larger ones, up to row {rows}. Give text.")
        yield part, [str(name) for name in taken] if text else [*integers]
    if ids is not None and next(left, None) is not None:
        raise ValueError(
            f"`ids` must have one item for each row. Received: more than {rows}, for {rows} rows. Leave out the others."
        )


def _write_npy(parts: Iterable[np.ndarray], path: Path, dimension: int) -> int:
    rows = 0
    with path.open("wb") as file:
        _write_header(file, rows, dimension)
        for part in parts:
            file.write(np.ascontiguousarray(part, "<f4").data)
            rows += len(part)
        file.seek(0)
        _write_header(file, rows, dimension)
        file.flush()
        os.fsync(file.fileno())
    return rows


def _write_header(file: IO[bytes], rows: int, dimension: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    np.lib.format.write_array_header_1_0(file, header)


def _write_npz(pairs: Iterable[Part], path: Path, dimension: int) -> int:
    names: list[int | str] = []
    embeddings = path.with_name("embeddings.npy")  # in the hidden folder of the draft

    def parts() -> Iterator[np.ndarray]:
        for part, taken in pairs:
            names.extend(taken)
            yield part

    rows = _write_npy(parts(), embeddings, dimension)
    with path.open("wb") as file:
        np.savez(
            file,
            id=np.array(names) if names else np.empty(0, np.int64),
            embedding=np.load(embeddings, mmap_mode="r" if rows else None),
        )
        file.flush()
        os.fsync(file.fileno())
    embeddings.unlink()
    return rows


def write_parquet(pairs: Iterable[Part], path: Path, encoder: OnnxEncoder) -> int:
    """Write the columns `id` and `embedding`, and what is recorded of the encoder; return the number of rows."""
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    dimension = encoder.dimension
    first: Part = next(pairs := iter(pairs), (np.empty((0, dimension), np.float32), []))
    kind = arrow.string() if any(isinstance(name, str) for name in first[1]) else arrow.int64()
    recorded = {KEY: json.dumps(_recorded(encoder))}
    schema = arrow.schema([("id", kind), ("embedding", arrow.list_(arrow.float32(), dimension))], recorded)
    rows = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for part, names in in_groups(itertools.chain([first], pairs), _ROW_GROUP):
            flat = arrow.array(np.ascontiguousarray(part, np.float32).ravel())
            columns = [_id_column(arrow, names, kind), arrow.FixedSizeListArray.from_arrays(flat, dimension)]
            writer.write_table(arrow.table(columns, schema=schema))
            rows += len(part)
    return rows


def _id_column(arrow: ModuleType, names: list[int | str], kind: pyarrow.DataType) -> pyarrow.Array:
    try:
        return arrow.array(names, kind)
    except UnicodeEncodeError as error:  # the name of a file may be any bytes
        raise ValueError(
            f"`ids` in a .parquet file must be Unicode. Received: {error.object!r:.200}. Rename that file, or write "
            f".npz."
        ) from error


def open_parquet(file: Path, encoder: OnnxEncoder) -> ParquetFile:
    """Open a Parquet file that `encoder` wrote. It stays the same for the reader if another process replaces it.

    Raises:
        InputError: another encoder wrote it.
    """
    opened = require("pyarrow.parquet", "parquet").ParquetFile(file)
    facts = json.loads((opened.schema_arrow.metadata or {}).get(KEY.encode(), b"{}"))
    if facts != _recorded(encoder):
        raise InputError(
            f"A run can be resumed only with the encoder that began it. Received: {file}, which another one wrote. "
            f"Delete it, or give a new name."
        )
    return opened


def read_ids(file: ParquetFile) -> list[int | str]:
    """Return the ids in a Parquet file."""
    return file.read(["id"]).column("id").to_pylist()


def _recorded(encoder: OnnxEncoder) -> dict[str, object]:
    metadata = {**encoder.metadata, "weights_sha256": encoder.weights_hash}
    return {name: metadata[name] for name in _RECORDED if name in metadata}


def in_groups(pairs: Iterable[Part], group: int) -> Iterator[Part]:
    """Gather parts until they have at least `group` rows. The last group may have fewer."""
    parts: list[np.ndarray] = []
    names: list[int | str] = []
    for part, taken in pairs:
        parts.append(part)
        names += taken
        if len(names) >= group:
            yield np.concatenate(parts), names
            parts, names = [], []
    if parts:
        yield np.concatenate(parts), names
