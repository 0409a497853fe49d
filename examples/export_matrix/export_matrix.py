"""Which encoders export, how exactly, and which are refused: every case, one row of a table.

    python examples/export_matrix/export_matrix.py                    # all cases: about 20 minutes on two cores
    python examples/export_matrix/export_matrix.py --only GELU        # cases whose name contains the text

Rows are kept in `examples/results/export_matrix.csv` as they come, and a case that has one is not run again; delete the
file, or give `--again`, to start over. `docs/export_matrix.md` is the same table to read.
"""

from __future__ import annotations

import argparse
import csv
import gc
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import application_cases
import encoder_cases
import keras
import layer_cases
from matrix_case import Case, Outcome, judge

from keras_tfcl.diagnostics import write_table

GROUPS = {
    "keras.applications": application_cases.CASES,
    "encoders": encoder_cases.CASES,
    "layers": layer_cases.CASES,
}
_ROOT = Path(__file__).parents[2]
_TABLE = _ROOT / "examples/results/export_matrix.csv"
_PAGE = _ROOT / "docs/export_matrix.md"
_PACKAGES = ("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime", "numpy")
_LONGEST_DETAIL = 400


@dataclass(frozen=True)
class Row:
    group: str
    case: str
    result: str
    relative: str
    cosine: str
    detail: str


def main() -> None:
    arguments = _arguments()
    rows = {} if arguments.again else _read(_TABLE)
    for group, cases in GROUPS.items():
        for name, case in cases.items():
            if (group, name) in rows or arguments.only.lower() not in name.lower():
                continue
            outcome = judge(case)
            rows[group, name] = row = _row(group, name, outcome)
            print(f"{row.result:<8} {row.relative:>8} {outcome.seconds:6.1f} s  {name}", flush=True)
            _write(rows.values(), _TABLE, _PAGE)
            keras.utils.clear_session()
            gc.collect()
    wrong = [row.case for row in rows.values() if row.result != _expected(GROUPS[row.group][row.case])]
    print(f"{len(rows)} cases, {len(wrong)} not as expected: {wrong}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run the cases whose name contains this text")
    parser.add_argument("--again", action="store_true", help="forget the rows that are there")
    return parser.parse_args()


def _expected(case: Case) -> str:
    return "refused" if case.refused else "matches"


def _row(group: str, name: str, outcome: Outcome) -> Row:
    return Row(
        group=group,
        case=name,
        result=outcome.result,
        relative="" if outcome.relative is None else f"{outcome.relative:.0e}",
        cosine="" if outcome.cosine is None else f"{outcome.cosine:.7f}",
        detail=" ".join(outcome.detail.split())[:_LONGEST_DETAIL],
    )


def _read(table: Path) -> dict[tuple[str, str], Row]:
    if not table.exists():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        rows = [Row(**entry) for entry in csv.DictReader(file)]
    return {(row.group, row.case): row for row in rows if row.case in GROUPS.get(row.group, {})}


def _write(rows: Iterable[Row], table: Path, page: Path) -> None:
    ordered = sorted(rows, key=lambda row: (list(GROUPS).index(row.group), list(GROUPS[row.group]).index(row.case)))
    write_table(table, [asdict(row) for row in ordered])
    page.write_text("\n".join(_page_lines(ordered)) + "\n", encoding="utf-8")


def _page_lines(rows: list[Row]) -> list[str]:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    lines = [
        "# What exports, and how exactly",
        "",
        "Written by `examples/export_matrix/export_matrix.py`. *Difference*: largest absolute difference between bare",
        "onnxruntime and `model.predict` (float32) on five fresh rows, divided by the largest absolute embedding.",
        f"Versions: {versions}; CPU.",
    ]
    for group in GROUPS:
        lines += ["", f"## {group}", "", "| case | result | difference | lowest cosine |", "|---|---|---|---|"]
        lines += [_line(row) for row in rows if row.group == group]
    return lines


def _line(row: Row) -> str:
    if row.result == "matches":
        return f"| {row.case} | matches | {row.relative} | {row.cosine} |"
    return f"| {row.case} | {row.result}: {row.detail.replace('|', '/')} | | |"


if __name__ == "__main__":
    main()
