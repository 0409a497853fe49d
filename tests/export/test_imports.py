"""Serving loads NumPy and onnxruntime; TensorFlow, Keras and ONNX need not be installed."""

import ast
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_tfcl.export import export_onnx

RUNTIME = Path(__file__).parents[2] / "export" / "runtime"

SERVE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = {"tensorflow", "keras", "onnx", "tf2onnx", "tf_keras", "keras_tfcl.export.keras_to_onnx"}
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if {name, name.partition(".")[0]} & HIDDEN else find(name, *args)

import numpy as np
import keras_tfcl.export
assert "onnxruntime" not in sys.modules, "imported before it is needed"
from keras_tfcl.export import OnnxEncoder, check_probes
assert check_probes(sys.argv[1]).passed
np.save(sys.argv[2], OnnxEncoder(sys.argv[1]).encode(np.load(sys.argv[3])))
assert not HIDDEN & set(sys.modules), HIDDEN & set(sys.modules)
HIDDEN.remove("keras_tfcl.export.keras_to_onnx")
from keras_tfcl.export import export_onnx, verify_onnx
try:
    export_onnx(None, "never.onnx")
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("file", sorted(RUNTIME.glob("*.py")), ids=lambda file: file.stem)
def test_the_runtime_imports_only_itself(file):
    """At the top of a file or inside a function: no TensorFlow, Keras or ONNX, and nothing that converts models."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            names = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        else:
            continue
        for name in names:
            assert name.partition(".")[0] not in {"tensorflow", "keras", "tf2onnx", "onnx"}, name
            if name.startswith("keras_tfcl"):
                others = ("keras_tfcl.atomic_write", "keras_tfcl.export.errors", "keras_tfcl.validation")
                assert name.startswith("keras_tfcl.export.runtime.") or name in others, name


def test_encoding_without_tensorflow_keras_and_onnx(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    report = export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SERVE, report.path, tmp_path / "out.npy", tmp_path / "x.npy"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert 'pip install "keras-tfcl[export]"' in done.stdout
    assert done.stderr == ""
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model.predict(x, verbose=0), atol=1e-5)


TELEMETRY = """
import sys
from keras_tfcl.export import OnnxEncoder
OnnxEncoder(sys.argv[1]).encode([[0.0] * 3])
"""


def test_onnxruntime_writes_nothing_into_the_home_folder(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    export_onnx(model, tmp_path / "encoder.onnx")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KERAS_TFCL_ON_DEMAND", "1")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    subprocess.run([sys.executable, "-c", TELEMETRY, tmp_path / "encoder.onnx"], check=True)
    assert list(home.rglob("*")) == []
