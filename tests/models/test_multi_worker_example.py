"""examples/multi_worker.py: two workers that agree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "multi_worker.py"


@pytest.mark.slow
def test_workers_report_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reports = sorted(re.findall(r"worker (\d) of 2: (losses [\d. ]+, sum of weights [\d.]+)", done.stdout))
    assert [number for number, _ in reports] == ["0", "1"]
    assert reports[0][1] == reports[1][1]
    losses = [float(value) for value in re.findall(r"\d+\.\d+", reports[0][1])][:-1]
    assert losses[-1] < losses[0]
