"""The losses' programs, written here, run by another XLA: value and gradient as in float64."""

import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[2] / "examples" / "speed"


@pytest.mark.slow
def test_lowered_programs_run_under_jax(tmp_path):
    pytest.importorskip("jax", reason="jax is not installed: pip install jax")
    sizes = "--pairs 64 --dimensions 16 --platform CPU".split()
    subprocess.run([sys.executable, SPEED / "lower.py", tmp_path, *sizes], check=True, capture_output=True)
    run = [sys.executable, SPEED / "run_lowered.py", tmp_path, "--seconds", "0"]
    lines = subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()[2:]
    assert len(lines) == 6
    kernels = [line.split(" | ")[5].removeprefix("at least ") for line in lines]
    assert min(map(int, kernels)) > 10
    errors = [[float(x) for x in line.split(" | ")[-2:]] for line in lines if "infonce" in line]
    assert len(errors) == 2
    assert max(map(max, errors)) < 1e-5
