"""A table of runs in a CSV file, one row for each run, that continues where it was stopped."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_tfcl.atomic_write import write_atomically

Row = dict[str, Any]


def run_table(
    path: str | os.PathLike[str],
    settings: Sequence[str],
    seeds: Sequence[int],
    run: Callable[[str, int], Mapping[str, object]],
    constants: Mapping[str, object] | None = None,
) -> list[Row]:
    """Runs every setting with every seed, one row of a CSV file each; rows already in the file are not repeated.

    The first seed of all settings comes first, so that an unfinished table compares all of them. After each run the
    file is replaced as a whole: it never holds a partial row.

    Args:
        path: of the CSV file. Its folder is created if it does not exist.
        settings: names of the compared settings.
        seeds: integers.
        run: function from a setting and a seed to the values of its row, by column.
        constants: what must be the same in all rows, such as the number of epochs; written into every row.

    Returns:
        The rows of `settings` and `seeds` in this order, with numbers as int or float (the setting stays text). The
        columns are `setting`, `seed`, the constants, and what `run` returned.

    Raises:
        ValueError: if the file was made with other constants, or `run` returns other columns than before.

    Example:

    >>> rows = run_table("sweep.csv", ["a", "bb"], [0, 1], lambda setting, seed: {"length": len(setting)})
    >>> [(row["setting"], row["seed"], row["length"]) for row in rows]
    [('a', 0, 1), ('bb', 0, 2), ('a', 1, 1), ('bb', 1, 2)]
    >>> rows == read_table("sweep.csv")
    True
    """
    path, constants = Path(path), dict(constants or {})
    rows = read_table(path) if path.exists() else []
    for row in rows:
        _check_constants(path, row, constants)
    done = {(row["setting"], row["seed"]): row for row in rows}
    wanted = [(setting, seed) for seed in seeds for setting in settings]
    for setting, seed in wanted:
        if (setting, seed) not in done:
            row = {"setting": setting, "seed": seed, **constants, **run(setting, seed)}
            rows.append(row)
            write_table(path, rows)
            done[setting, seed] = _typed(row)
    return [done[key] for key in wanted]


def read_table(path: str | os.PathLike[str]) -> list[Row]:
    """Reads the rows of a CSV file; numbers become int or float, except in the setting.

    The example of `write_table` reads a file.
    """
    with open(path, newline="") as file:
        return [_typed(row) for row in csv.DictReader(file)]


def write_table(path: str | os.PathLike[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows of equal columns to a CSV file, which is replaced as a whole.

    Args:
        path: of the CSV file. Its folder is created if it does not exist.
        rows: at least one, each with the columns of the first, in its order.

    Raises:
        ValueError: if a row has other columns.

    Example:

    >>> write_table("rows.csv", [{"setting": "a", "seed": 0}, {"setting": "b", "seed": 1}])
    >>> read_table("rows.csv")[1]
    {'setting': 'b', 'seed': 1}
    """
    columns = list(rows[0])
    for row in rows:
        if list(row) != columns:
            raise ValueError(f"All rows must have the columns {columns}. Received: {list(row)}. Use another file.")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _typed(row: Mapping[str, object]) -> Row:
    return {name: value if name == "setting" else _number(value) for name, value in row.items()}


def _number(value: object) -> int | float | str:
    """What is read back from a file that holds the value."""
    text = "" if value is None else str(value)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _check_constants(path: Path, row: Row, constants: Mapping[str, object]) -> None:
    for name, value in constants.items():
        if row.get(name) != _number(value):
            raise ValueError(
                f"`{path}` must hold runs with {name}={value!r}. Received: {name}={row.get(name)!r} in the row of "
                f"{row['setting']!r}. Choose another file, or delete it to start over."
            )
