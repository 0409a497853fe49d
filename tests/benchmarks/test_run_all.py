"""The driver of the benchmarks: which commands it runs, in which order."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.mark.parametrize("code", [0, 1])
def test_every_task_is_trained_with_a_seed_before_the_next_seed(code, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    driver, calls = importlib.import_module("run_all"), []

    def run(command, **keywords):
        calls.append((Path(command[1]).stem, command[2], command[command.index("--seeds") + 1]))
        return subprocess.CompletedProcess(command, code, stderr="what went wrong")

    monkeypatch.setattr(driver.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["run_all.py"])
    driver.main()
    tasks = [unit.script for unit in driver.ROUND]
    expected = [(task, command, str(seed)) for seed in range(7) for task in tasks for command in ("train", "test")]
    assert calls[: len(expected)] == expected
    assert all((BENCHMARKS / f"{script}.py").exists() for script, _, _ in calls)
    assert ("scale_law", "train", "0") in calls and ("scale_law", "test", "0") not in calls
    assert capsys.readouterr().out.count("what went wrong") == code * len(calls)  # a failure stops nothing


def test_no_command_starts_without_time(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    driver = importlib.import_module("run_all")
    monkeypatch.setattr(driver.subprocess, "run", lambda *args, **keywords: pytest.fail("a command was run"))
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--minutes", "0"])
    driver.main()
