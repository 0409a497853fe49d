"""The cases of examples/export_matrix: each matches, or is refused with the name of the layer and what to do."""

import csv
import re
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples/export_matrix"))
import export_matrix  # noqa: E402
from matrix_case import judge  # noqa: E402

sys.path.pop(0)

CASES = {(group, name): case for group, cases in export_matrix.GROUPS.items() for name, case in cases.items()}
FAST = [
    ("encoders", "transformer text encoder, subclassed, any length, masked"),
    ("encoders", "ContrastiveModel, projector kept"),
    ("encoders", "augmentation inside"),
    ("layers", "Bidirectional LSTM"),
    ("layers", "Resizing, bicubic, to smaller"),
    ("layers", "Resizing, bicubic, to larger"),
]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def check(key):
    case = CASES[key]
    outcome = judge(case)
    keras.utils.clear_session()
    assert outcome.result == ("refused" if case.refused else "matches"), outcome
    if case.refused:
        assert re.search(r"(?s)Received: .*`\w+`", outcome.detail), outcome.detail


@pytest.mark.parametrize("key", FAST, ids=lambda key: key[1])
def test_some_cases(key):
    check(key)


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in CASES if key not in FAST], ids=lambda key: f"{key[0]}: {key[1]}")
def test_case(key):
    check(key)


def test_the_committed_table_is_complete_and_as_expected():
    with (ROOT / "examples/results/export_matrix.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["group"], row["case"]): row["result"] for row in csv.DictReader(file)}
    assert rows == {key: "refused" if case.refused else "matches" for key, case in CASES.items()}
