"""Embeddings on disk, written batch by batch: `.npy` to map into memory, `.parquet` with ids.

A `.npy` header leaves room for the number of rows to grow: it is written first for none and at the end for all.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_tfcl.export.runtime.drafts import written_beside
from keras_tfcl.export.runtime.metadata import KEY
from keras_tfcl.export.runtime.requirements import require

_SUFFIXES = (".npy", ".parquet")
_RECORDED = ("weights_sha256", "dimension", "normalized", "variant")  # of the encoder's metadata


def check_embedding_file(path: str | os.PathLike[str], ids: Iterable[Any] | None) -> Path:
    """Return the path, after what can be found wrong before any work.

    Raises:
        ValueError: another kind of file, or ids for `.npy`.
        ImportError: `.parquet` without pyarrow.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"Embeddings are written to {' or '.join(_SUFFIXES)}. Received: {path}. Change its suffix.")
    if path.suffix == ".npy" and ids is not None:
        raise ValueError(f"A .npy file holds no ids. Received: ids for {path}. Write .parquet, or keep them yourself.")
    if path.suffix == ".parquet":
        require("pyarrow.parquet", "parquet")
    return path


def write_embeddings(
    parts: Iterable[np.ndarray], path: Path, dimension: int, ids: Iterable[Any] | None, metadata: Mapping[str, Any]
) -> int:
    """Write float32 arrays `(n, D)` one after the other, and return the number of rows.

    Raises:
        ValueError: `ids` has not as many items as there are rows.
    """
    with written_beside(path) as draft:
        if path.suffix == ".npy":
            return _write_npy(parts, draft, dimension)
        return _write_parquet(parts, draft, dimension, ids, metadata)


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


def _write_header(file: Any, rows: int, dimension: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    np.lib.format.write_array_header_1_0(file, header)


def _write_parquet(
    parts: Iterable[np.ndarray], path: Path, dimension: int, ids: Iterable[Any] | None, metadata: Mapping[str, Any]
) -> int:
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    left = iter(itertools.count() if ids is None else ids)
    first = list(itertools.islice(left, 1))
    left = itertools.chain(first, left)
    integers = all(isinstance(item, (int, np.integer)) for item in first)  # all else, such as paths, is text
    fields = {"id": arrow.int64() if integers else arrow.string(), "embedding": arrow.list_(arrow.float32(), dimension)}
    facts = {KEY: json.dumps({name: metadata[name] for name in _RECORDED if name in metadata})}
    rows = 0
    with parquet.ParquetWriter(path, arrow.schema(fields.items(), facts)) as writer:
        for part in parts:
            names = _take(left, len(part), rows)
            flat = arrow.array(np.ascontiguousarray(part, np.float32).ravel())
            columns = [
                arrow.array(names if integers else map(str, names), fields["id"]),
                arrow.FixedSizeListArray.from_arrays(flat, dimension),
            ]
            writer.write_table(arrow.table(columns, schema=writer.schema))
            rows += len(part)
    if ids is not None and next(left, None) is not None:
        raise ValueError(f"`ids` must have one item for each row. Received: more than {rows}, for {rows} rows.")
    return rows


def _take(ids: Iterator[Any], count: int, rows: int) -> list[Any]:
    taken = list(itertools.islice(ids, count))
    if len(taken) < count:
        raise ValueError(
            f"`ids` must have one item for each row. Received: {rows + len(taken)}, for at least {rows + count} rows."
        )
    return taken
