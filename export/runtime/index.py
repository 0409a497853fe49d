"""An index of embeddings in one file: exact search in NumPy, or an approximate graph, with ids and metadata."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl.atomic_write import atomic_write
from keras_tfcl.export.errors import InputError, ModelFileError
from keras_tfcl.export.runtime.mapped_arrays import map_npz
from keras_tfcl.export.runtime.model_file import version_of
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.validation import positive_integer

if TYPE_CHECKING:
    import usearch.index

    from keras_tfcl.export.runtime.encoder import OnnxEncoder

SCHEMA = 1
BLOCK = 1 << 16  # vectors compared at a time, so that a search needs little memory beside the index
_QUERIES = 64  # queries compared at a time
OVERSAMPLING = 4  # candidates that are compared again in full precision, for each that is asked for
_TIE = 1e-6  # cosines closer than this are equal
GRAPH_CANDIDATES = 128  # how many the graph looks at; more are slower and more exact
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)  # bits set in each byte

Precision = Literal["float32", "int8", "binary"]


class Hit(NamedTuple):
    """A stored vector that a search found, with its score."""

    id: int | str
    score: float
    metadata: dict[str, object]


class Index:
    """Finds the stored embeddings that are nearest to a query by cosine.

    An index is saved as one file, an uncompressed `.npz` archive that any NumPy can read. Its vectors stay on the disk
    and are mapped into memory. It stores the hash of the encoder's weights, and refuses vectors of another encoder.

    Search is exact by default: the queries are multiplied with blocks of vectors. `build_graph()` adds an approximate
    index (HNSW, by usearch), which is worthwhile from about 100,000 vectors on. With `precision="int8"` or `"binary"`
    the blocks have a quarter or a thirty-second of the bytes, and the best candidates are compared in full precision.

    Args:
        encoder: an `OnnxEncoder` whose vectors the index will hold, or the length of the vectors.
        precision: `"float32"`, `"int8"` or `"binary"`, the precision of the first comparison. Defaults to `"float32"`.

    Raises:
        ValueError: the length is not a positive integer, or the precision is unknown.

    Example:

    >>> index = Index(2)
    >>> index.add(np.eye(2), ids=["east", "north"])
    >>> [(hit.id, round(hit.score, 2)) for hit in index.search(np.array([[3.0, 4.0]]), k=1)[0]]
    [('north', 0.8)]
    """

    def __init__(self, encoder: OnnxEncoder | int, precision: Precision = "float32") -> None:
        dimension = getattr(encoder, "dimension", encoder)
        if precision not in ("float32", "int8", "binary"):
            raise ValueError(f'`precision` must be "float32", "int8" or "binary". Received: precision={precision!r}.')
        self.dimension = positive_integer("encoder", dimension, "Pass an OnnxEncoder, or the length of the vectors.")
        self.precision: Precision = precision
        self.weights_hash = None if isinstance(encoder, (int, np.integer)) else encoder.weights_hash
        self._vectors = np.empty((0, self.dimension), np.float32)  # unit length
        self._codes = _encode(self._vectors, precision)
        self._ids: list[int | str] = []
        self._metadata: list[dict[str, object]] = []
        self._positions: dict[int | str, int] = {}
        self._graph: usearch.index.Index | None = None
        self._opened: tuple[Path, tuple[int, ...]] | None = None  # the file whose vectors are mapped

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: int | str) -> bool:
        return id in self._positions

    def check_encoder(self, encoder: OnnxEncoder) -> None:
        """Raise InputError unless the vectors of `encoder` can be compared with those of the index."""
        found = encoder.weights_hash
        if encoder.dimension != self.dimension or self.weights_hash not in (None, found):
            raise InputError(
                f"An index can be searched only with the encoder that filled it. Received: an encoder of dimension "
                f"{encoder.dimension} with weights {_short(found)}, for an index of dimension {self.dimension} with "
                f"weights {_short(self.weights_hash)}. Build the index again with this encoder."
            )

    def add(
        self,
        vectors: ArrayLike,
        ids: Iterable[int | str] | None = None,
        metadata: Sequence[Mapping[str, object]] | None = None,
    ) -> None:
        """Add vectors; an id that the index already holds is replaced. A graph must then be built again.

        Args:
            vectors: `(N, D)`, any float dtype, not zero; they are divided by their length.
            ids: integers or strings, unique. Defaults to numbers above every number in use.
            metadata: a dict for each, which JSON can hold, such as a title or a path.

        Raises:
            InputError: shapes, lengths, ids or values do not fit.
        """
        units = self._units(vectors)
        first = self.next_number
        names = checked_ids(range(first, first + len(units)) if ids is None else ids, len(units))
        notes = [{} for _ in names] if metadata is None else [dict(entry) for entry in metadata]
        if len(notes) != len(names):
            raise InputError(f"`metadata` must have one dict for each vector. Received: {len(notes)} for {len(names)}.")
        try:
            json.dumps(notes, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"`metadata` must be what JSON can hold. Received: {error}. Give strings.") from error
        self.delete(names)
        self._vectors = np.concatenate([self._vectors, units])
        self._codes = np.concatenate([self._codes, _encode(units, self.precision)])
        for name in names:
            self._positions[name] = len(self._ids)
            self._ids.append(name)
        self._metadata += notes
        self._graph = None

    def delete(self, ids: Iterable[int | str]) -> int:
        """Remove vectors by id, and return how many there were. A graph must then be built again."""
        gone = {self._positions[name] for name in _listed(ids) if name in self._positions}
        if gone:
            kept = [position for position in range(len(self)) if position not in gone]
            self._vectors, self._codes = self._vectors[kept], self._codes[kept]
            self._ids = [self._ids[position] for position in kept]
            self._metadata = [self._metadata[position] for position in kept]
            self._positions = {name: position for position, name in enumerate(self._ids)}
            self._graph = None
        return len(gone)

    def search(self, queries: ArrayLike, k: int = 10, exact: bool = False) -> list[list[Hit]]:
        """Return the k nearest vectors of each query, nearest first.

        Args:
            queries: `(Q, D)`, not zero; they are divided by their length.
            k: how many, a positive integer; fewer come back from a smaller index.
            exact: whether to compare with every vector in full precision, whatever the graph and precision.

        Raises:
            InputError: shapes or values do not fit.
            ValueError: k is not a positive integer.
        """
        k = positive_integer("k", k, "10 is the default.")
        self._check_unchanged()
        units, graph = self._units(queries), None if exact else self._graph
        found = self._exact(units, k, exact) if graph is None else self._approximate(graph, units, k)
        return [
            [
                Hit(self._ids[position], float(score), self._metadata[position])
                for position, score in zip(*one, strict=True)
            ]
            for one in found
        ]

    def build_graph(self, check: int = 100) -> float:
        """Build the approximate index, and return its recall of the 10 nearest against exact search.

        Args:
            check: number of vectors that are searched for to measure the recall, a positive integer. An entry as near
                as the 10th nearest counts as found.

        Raises:
            InputError: the index is empty.
            ValueError: `check` is not a positive integer.
            ImportError: usearch is missing; the message names the extra.
        """
        positive_integer("check", check, "Leave it out for 100.")
        if not len(self):
            raise InputError("A graph needs vectors. Received: an empty index. Add vectors first.")
        graph = _empty_graph(self.dimension)
        graph.add(np.arange(len(self), dtype=np.uint64), np.asarray(self._vectors))
        self._graph = graph
        chosen = np.unique(np.linspace(0, len(self) - 1, min(check, len(self))).astype(int))
        queries = np.asarray(self._vectors[chosen])
        pairs = zip(self._approximate(graph, queries, 10), self._exact(queries, 10, full=True), strict=True)
        return float(np.mean([np.sum(near[1] >= true[1][-1] - _TIE) / len(true[1]) for near, true in pairs]))

    @property
    def next_number(self) -> int:
        """The smallest integer above all integers in use as ids, which is the next id by default."""
        return max((name for name in self._ids if isinstance(name, int)), default=-1) + 1

    @property
    def has_graph(self) -> bool:
        """Whether there is an approximate index."""
        return self._graph is not None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file, which is renamed to `path` when it is complete.

        Raises:
            FileNotFoundError: its folder does not exist.
        """
        header = {
            "schema": SCHEMA,
            "dimension": self.dimension,
            "precision": self.precision,
            "weights_sha256": self.weights_hash,
            "ids": self._ids,
            "metadata": self._metadata,
        }
        arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), "vectors": self._vectors}
        if self.precision != "float32":
            arrays["codes"] = self._codes
        if self._graph is not None:
            arrays["graph"] = np.frombuffer(self._graph.save() or b"", np.uint8)
        self._check_unchanged()
        with atomic_write(Path(path)) as draft, draft.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is called `allow_pickle`
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, path: str | os.PathLike[str], encoder: OnnxEncoder | None = None) -> Index:
        """Open an index, whose vectors are mapped into memory and not read.

        Args:
            path: a file that `save` wrote.
            encoder: the `OnnxEncoder` that is to make the queries, to be checked against the one that filled the index.

        Raises:
            FileNotFoundError: there is no such file.
            ModelFileError: it is no index, or damaged. `search` and `save` raise it, too, if a program writes into the
                file meanwhile, as `cp` does.
            InputError: another encoder filled it.
        """
        path = Path(path).absolute()
        version = version_of(path)
        try:
            arrays = map_npz(path)
            header = json.loads(arrays["header"].tobytes())
            index = cls(header["dimension"], header["precision"])
            index._vectors = arrays["vectors"]
            index._codes = arrays.get("codes", index._vectors)
            index._ids, index._metadata = header["ids"], header["metadata"]
            index.weights_hash = header["weights_sha256"]
            counts = {len(index._vectors), len(index._codes), len(index._ids), len(index._metadata)}
            if len(counts) != 1 or index._vectors.shape[1:] != (index.dimension,) or header["schema"] != SCHEMA:
                raise ValueError(f"its parts have {sorted(counts)} entries")
            if "graph" in arrays:
                index._graph = _empty_graph(index.dimension)
                index._graph.load(arrays["graph"].tobytes())
                if len(index._graph) != len(index):
                    raise ValueError(f"its graph has {len(index._graph)} of {len(index)} vectors")
        except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError, RuntimeError) as error:
            raise ModelFileError(
                f"Expected an index that this library saved. Received: {path}: {error}. Build it again."
            ) from error
        index._positions = {name: position for position, name in enumerate(index._ids)}
        index._opened = path, version
        if encoder is not None:
            index.check_encoder(encoder)
        return index

    def __repr__(self) -> str:
        search = "graph" if self._graph is not None else f"exact, {self.precision}"
        return f"Index({len(self)} vectors of {self.dimension}, {search}, weights {_short(self.weights_hash)})"

    def _check_unchanged(self) -> None:
        """Raise if a program has written into the file and not beside it, so that its vectors are others."""
        if self._opened is None:
            return
        path, before = self._opened
        now = version_of(path)
        if now[:2] == before[:2] and now != before:
            raise ModelFileError(
                f"An index in use must not be written in place. Received: {path}, into which another program has "
                f"written. Load it again, and the next time rename the new file to this name."
            )

    def _units(self, vectors: ArrayLike) -> np.ndarray:
        array = np.asarray(vectors, np.float32)
        if array.ndim != 2 or array.shape[1] != self.dimension:
            raise InputError(
                f"Vectors must have shape (N, {self.dimension}). Received: {array.shape}. Pass what `encode` returns."
            )
        largest = np.abs(array).max(axis=1, keepdims=True, initial=0)  # first, so that no square over- or underflows
        bad = np.flatnonzero(~np.isfinite(largest[:, 0]) | (largest[:, 0] == 0))
        if bad.size:
            raise InputError(
                f"Vectors must be finite and not zero. Received: {bad.size} of {len(array)} that are not, the first is "
                f"number {bad[0]}. Leave them out."
            )
        scaled = array / largest
        return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)

    def _exact(self, queries: np.ndarray, k: int, full: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        """The indices and cosines of the k nearest vectors for each query."""
        if len(queries) > _QUERIES:
            parts = (queries[start : start + _QUERIES] for start in range(0, len(queries), _QUERIES))
            return [found for part in parts for found in self._exact(part, k, full)]
        coarse = self.precision != "float32" and not full
        wanted = min(k * OVERSAMPLING if coarse else k, len(self))
        scores = np.full((len(queries), 0), 0, np.float32)
        positions = np.zeros((len(queries), 0), np.int64)
        for start in range(0, len(self), BLOCK):
            block = (self._codes if coarse else self._vectors)[start : start + BLOCK]
            found = _compare(queries, block, self.precision if coarse else "float32")
            indices = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
            found, indices = _best(found, indices, wanted)
            scores, positions = np.concatenate([scores, found], axis=1), np.concatenate([positions, indices], axis=1)
            scores, positions = _best(scores, positions, wanted)
        if coarse and wanted:
            scores = np.einsum("qd,qcd->qc", queries, self._vectors[positions])
            scores, positions = _best(scores, positions, min(k, len(self)))
        return [*zip(positions, scores, strict=True)]

    def _approximate(
        self, graph: usearch.index.Index, queries: np.ndarray, k: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for query in queries:
            positions = graph.search(query, min(k, len(self))).keys.astype(np.int64)
            scores = self._vectors[positions] @ query
            order = np.argsort(-scores, kind="stable")
            found.append((positions[order], scores[order]))
        return found


def _encode(units: np.ndarray, precision: Precision) -> np.ndarray:
    """Unit vectors in the precision of a first comparison."""
    if precision == "float32":
        return units
    if precision == "int8":
        largest = np.abs(units).max(axis=1, keepdims=True, initial=1e-12)
        return np.round(units / largest * 127).astype(np.int8)
    return np.packbits(units > 0, axis=1)


def _compare(queries: np.ndarray, block: np.ndarray, precision: Precision) -> np.ndarray:
    """Scores `(Q, C)` of queries and vectors in some precision; larger is nearer."""
    if precision == "float32":
        return queries @ block.T
    if precision == "int8":
        block = block.astype(np.float32)
        return queries @ (block / np.linalg.norm(block, axis=1, keepdims=True)).T
    signs = np.packbits(queries > 0, axis=1)
    return np.stack([-_ONES[block ^ sign].sum(axis=1, dtype=np.int32) for sign in signs]).astype(np.float32)


def _best(scores: np.ndarray, positions: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` largest scores of each row in descending order, with their indices; ties by index."""
    count = min(count, scores.shape[1])
    least = np.partition(scores, -count, axis=1)[:, -count]  # sorting all of them would take 10 times as long
    order = np.empty((len(scores), count), np.int64)
    for row, bound in enumerate(least):
        near = np.flatnonzero(scores[row] >= bound)
        order[row] = near[np.lexsort((positions[row, near], -scores[row, near]))[:count]]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1)


def checked_ids(ids: Iterable[int | str], count: int) -> list[int | str]:
    """Return a list of the ids.

    Raises:
        InputError: they are not integers or Unicode text, not unique, or not one for each of `count` vectors.
    """
    names = _listed(ids)
    if len(names) != count:
        raise InputError(
            f"`ids` must have one id for each vector. Received: {len(names)} for {count} vectors. Pass an id for each."
        )
    if not all(isinstance(name, (int, str)) and not isinstance(name, bool) for name in names):
        raise InputError("`ids` must be integers or strings. Received: ids of other types. Convert them with str().")
    broken = [name for name in names if isinstance(name, str) and name.encode(errors="ignore").decode() != name]
    if broken:  # JSON could not carry them
        raise InputError(f"`ids` must be Unicode. Received: {broken[0]!r}. If it is the name of a file, rename it.")
    if len(set(names)) != len(names):
        raise InputError(
            f"`ids` must be unique. Received: {len(names) - len(set(names))} repeated ids. Leave them out."
        )
    return names


def _listed(ids: Iterable[int | str]) -> list[int | str]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):  # "cat" would be the ids "c", "a" and "t"
        raise InputError(f"`ids` must be a list. Received: {ids!r}. Write [{ids!r}].")
    return [name.item() if isinstance(name, np.generic) else name for name in ids]


def _short(digest: str | None) -> str:
    return "unknown" if not digest else digest.removeprefix("sha256:")[:12]


def _empty_graph(dimension: int) -> usearch.index.Index:
    made: usearch.index.Index = require("usearch.index", "index").Index(
        ndim=dimension, metric="ip", dtype="f32", expansion_search=GRAPH_CANDIDATES
    )
    return made
