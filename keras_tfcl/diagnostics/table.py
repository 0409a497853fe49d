"""A table of runs in a CSV file that grows by one row a run, and goes on where it stopped."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def run_table(
    path: str | os.PathLike[str],
    settings: Sequence[str],
    seeds: Sequence[int],
    measure: Callable[[str, int], Mapping[str, Any]],
    constants: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Measures every setting with every seed, one row of a CSV file each; rows that are there already are kept.

    The first seed of all settings comes first, so that an unfinished table compares all of them. After each run the
    file is written anew beside the old one and renamed: it never holds half a row.

    Args:
        path: of the CSV file. Its folder is made if need be.
        settings: names of what is compared.
        seeds: integers.
        measure: function of a setting and a seed that gives the numbers of its row, by column.
        constants: what must be the same in all rows, such as the number of epochs; written into every row.

    Returns:
        The rows of `settings` and `seeds` in the order they were asked for, with numbers as int or float
            (the setting stays text). Columns:
        `setting`, `seed`, the constants, what `measure` gave.

    Raises:
        ValueError: if the file was made with other constants, or `measure` gives other columns than before.

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
            row = {"setting": setting, "seed": seed, **constants, **measure(setting, seed)}
            rows.append(row)
            write_table(path, rows)
            done[setting, seed] = _typed(row)
    return [done[key] for key in wanted]


def read_table(path: str | os.PathLike[str]) -> list[Row]:
    """Reads the rows of a CSV file; what looks like a number becomes one, except the setting."""
    with open(path, newline="") as file:
        return [_typed(row) for row in csv.DictReader(file)]


def write_table(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of equal columns to a CSV file, beside it first, then renames."""
    columns = list(rows[0])
    for row in rows:
        if list(row) != columns:
            raise ValueError(f"All rows must have the columns {columns}. Received: {list(row)}. Use another file.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _typed(row: Mapping[str, Any]) -> Row:
    return {name: value if name == "setting" else _number(value) for name, value in row.items()}


def _number(value: Any) -> Any:
    for kind in (int, float):
        try:
            return kind(str(value))
        except ValueError:
            pass
    return value


def _check_constants(path: Path, row: Row, constants: Mapping[str, Any]) -> None:
    for name, value in constants.items():
        if row.get(name) != _number(value):
            raise ValueError(
                f"`{path}` must hold runs with {name}={value!r}. Received: {name}={row.get(name)!r} in the row of "
                f"{row['setting']!r}. Choose another file, or delete it to start anew."
            )
