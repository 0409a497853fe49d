"""`keras-tfcl index build`, `add` and `search`"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from keras_tfcl.atomic_write import check_target, locked_file
from keras_tfcl.cli.options import (
    AUTO,
    ROW_SUFFIXES,
    TEXT_SUFFIX,
    AsJson,
    Encoder,
    Provider,
    in_one_line,
    providers_of,
    read_input,
)
from keras_tfcl.export.errors import InputError
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.index import Index, checked_ids
from keras_tfcl.export.runtime.requirements import require

index = typer.Typer(help="Build an index of embeddings, and search it.", no_args_is_help=True)

Inputs = Annotated[list[Path], typer.Argument(exists=True, help="One .npy, .npz or .txt file, or images and folders.")]
IndexFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An index.")]
Root = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder that ids are relative to, such as serve --images."),
]
OnError = Annotated[Literal["stop", "skip"], typer.Option(help="skip: leave out what cannot be read, and name it.")]


@index.command()
def build(
    file: Encoder,
    inputs: Inputs,
    out: Annotated[Path, typer.Option("--out", "-o", help="The index to write.")],
    precision: Annotated[
        Literal["float32", "int8", "binary"], typer.Option(help="Precision of the first comparison.")
    ] = "float32",
    graph: Annotated[
        bool, typer.Option("--graph", help="Build an approximate index too, and report its recall.")
    ] = False,
    root: Root = None,
    on_error: OnError = "stop",
    provider: Provider = AUTO,
    as_json: AsJson = False,
) -> None:
    """Embed inputs and write an index of them.

    The id of an image is its path relative to the given folder, or to --root. A .txt file holds one text per line, and
    the index stores the texts.

    Examples: keras-tfcl index build encoder.onnx photos/ -o photos.index
    """
    check_target(out)  # or an error only after the work
    if graph:
        require("usearch.index", "index")
    encoder = OnnxEncoder(file, providers_of(provider))
    made = Index(encoder, precision)
    add_to, skipped = _embedded(encoder, inputs, root, on_error)
    add_to(made)
    recall = made.build_graph() if graph else None
    with locked_file(out) if out.exists() else contextlib.nullcontext():  # or an addition on its way would replace it
        made.save(out)
    _say(made, out, as_json, recall, skipped)


@index.command()
def add(
    file: Encoder,
    path: IndexFile,
    inputs: Inputs,
    root: Root = None,
    on_error: OnError = "stop",
    provider: Provider = AUTO,
    as_json: AsJson = False,
) -> None:
    """Add inputs to an index. An input with the id of an entry replaces it. A graph is built again.

    Examples: keras-tfcl index add encoder.onnx photos.index photos/new/ --root photos/
    """
    encoder = OnnxEncoder(file, providers_of(provider))
    Index.load(path, encoder)  # or an error before the work
    add_to, skipped = _embedded(encoder, inputs, root, on_error)
    with locked_file(path):  # or an addition by another process meanwhile would be lost
        known = Index.load(path, encoder)
        graph, before = known.has_graph, len(known)
        replaced = before + add_to(known) - len(known)
        recall = known.build_graph() if graph else None
        known.save(path)
    _say(known, path, as_json, recall, skipped, replaced)


@index.command()
def search(
    file: Encoder,
    path: IndexFile,
    queries: Annotated[list[str], typer.Argument(help="As for build; for an encoder of texts also the texts.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many entries to find.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every entry, in full precision.")] = False,
    provider: Provider = AUTO,
    as_json: AsJson = False,
) -> None:
    """Find the entries of an index that are nearest to each query.

    Examples: keras-tfcl index search encoder.onnx photos.index cat.jpg -k 5

    keras-tfcl index search words.onnx texts.index "a red house"
    """
    encoder = OnnxEncoder(file, providers_of(provider))
    known = Index.load(path, encoder)
    suffixes = (*ROW_SUFFIXES, TEXT_SUFFIX)
    are_files = any(os.path.exists(query) or Path(query).suffix in suffixes for query in queries)
    are_texts = encoder.takes_text and not are_files
    rows = queries if are_texts else read_input([Path(query) for query in queries])
    found = known.search(encoder.encode(rows), k, exact)
    names = [*map(str, rows)] if isinstance(rows, list) else [*range(len(found))]
    if as_json:
        results = [
            {"query": name, "hits": [hit._asdict() for hit in hits]} for name, hits in zip(names, found, strict=True)
        ]
        print(json.dumps({"ok": True, "results": results}))
        return
    for name, hits in zip(names, found, strict=True):
        print(name)
        for hit in hits:
            text = f"  {hit.metadata['text']}" if "text" in hit.metadata else ""
            print(f"  {hit.score:.4f}  {hit.id}{text}")


def _embedded(
    encoder: OnnxEncoder, inputs: list[Path], root: Path | None, on_error: str
) -> tuple[Callable[[Index], int], list[str]]:
    """Embed inputs; return the function that adds them to an index and counts them, and what is left out."""
    rows = read_input(inputs)
    names = _names(rows, inputs, root) if isinstance(rows, list) and not isinstance(rows[0], str) else None
    skipped: dict[int, str] = {}

    def skip(position: int, item: object, error: Exception) -> None:
        skipped[position] = str(names[position] if names else position)
        print(f"skipped: {in_one_line(error)}", file=sys.stderr)

    parts = encoder.encode_iter(rows, on_error=skip if on_error == "skip" else "raise")
    vectors = np.concatenate([np.empty((0, encoder.dimension), np.float32), *parts])
    kept = [position for position in range(len(vectors) + len(skipped)) if position not in skipped]
    pointing = vectors.any(axis=1)
    for row in np.flatnonzero(~pointing):
        position = kept[row]
        error = InputError(
            f"An embedding in an index must not be zero. Received: zeros for {names[position] if names else position}. "
            f"Leave it out, or give --on-error skip."
        )
        if on_error == "stop" or not pointing.any():
            raise error
        skip(position, None, error)
    vectors, kept = vectors[pointing], [position for position in kept if position not in skipped]

    def add_to(index: Index) -> int:
        if names is not None:
            chosen = [names[position] for position in kept]
            index.add(vectors, chosen, [{"path": name} for name in chosen])
        else:
            texts = [{"text": rows[position]} for position in kept] if isinstance(rows, list) else None
            index.add(vectors, [index.next_number + position for position in kept], texts)
        return len(kept)

    return add_to, [*skipped.values()]


def _names(files: list[Path], inputs: list[Path], root: Path | None) -> list[str]:
    """The paths relative to `root`, or else to the given folders, which stay valid when the folders are moved.

    Raises:
        InputError: a file lies outside of `root`, two files get one name, or a name is not Unicode.
    """
    names: dict[str, Path] = {}
    for file in files:
        folder = root or next((given for given in inputs if given.is_dir() and file.is_relative_to(given)), file.parent)
        name = os.path.relpath(file, folder)
        if name.startswith(os.pardir + os.sep):
            raise InputError(f"Images must lie in the folder of --root. Received: {file}, not in {root}. Leave it out.")
        other = names.setdefault(Path(name).as_posix(), file)
        if other is not file:
            raise InputError(
                f"Images need different names, relative to the folders that are given. Received: {other} and {file}. "
                f"Give the folder that holds both."
            )
    checked_ids(names, len(names))  # before the work
    return [*names]


def _say(index: Index, path: Path, as_json: bool, recall: float | None, skipped: list[str], replaced: int = 0) -> None:
    if as_json:
        about = {"out": str(path), "vectors": len(index), "dimension": index.dimension, "recall": recall}
        print(json.dumps({"ok": True} | about | {"skipped": skipped, "replaced": replaced}))
    else:
        found = "" if recall is None else f", recall of the graph at 10: {recall:.3f}"
        counts = {"replaced": replaced, "skipped": len(skipped)}
        changed = "".join(f", {count} {what}" for what, count in counts.items() if count)
        print(f"{path}: {len(index)} vectors of length {index.dimension}{changed}{found}")
