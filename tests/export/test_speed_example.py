"""The speed comparison runs, and its figures hang together. They themselves are for an idle machine."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "speed" / "inference.py"


@pytest.mark.slow
def test_inference_comparison(tmp_path):
    options = "--models small --batches 8 --rows 16 --results".split()
    names = ["OnnxEncoder", "model.predict", "tf.function", "tf.function, XLA", "SavedModel", "torch"]
    command = [sys.executable, SCRIPT, *options, tmp_path, "--names", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "speed_inference.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names
    for row in rows:
        if row["name"] == "torch":
            assert row["note"] == "left out: no --peers"
            continue
        assert row["note"] == ""
        assert float(row["difference"]) < 1e-4
        assert float(row["low"]) <= float(row["rows_per_second"]) <= float(row["high"])
    memory = {row["name"]: row["MiB"] for row in rows}
    assert float(memory["OnnxEncoder"]) < 150 < float(memory["model.predict"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed_inference.csv", "speed_inference.md"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["serving_soak.py --minutes 0.3", "encode.py --rounds 3 --batches 8"])
def test_soak_and_encode(arguments, tmp_path):
    """The soak fails by itself when a request is not answered or the memory of the server grows."""
    script, *options = arguments.split()
    command = [sys.executable, SCRIPT.with_name(script), *options, "--results", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    assert [*tmp_path.glob("*.csv")]
