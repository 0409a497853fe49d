"""Serving loads NumPy and onnxruntime; TensorFlow, Keras and ONNX need not be installed."""

import subprocess
import sys

import keras
import numpy as np

from keras_tfcl.export import export_onnx

SERVE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = {"tensorflow", "keras", "onnx", "tf2onnx", "tf_keras"}
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name.partition(".")[0] in HIDDEN else find(name, *args)

import numpy as np
import keras_tfcl.export
assert "onnxruntime" not in sys.modules, "imported before it is needed"
from keras_tfcl.export import OnnxEncoder, check_probes, export_onnx, verify_onnx
assert check_probes(sys.argv[1]).passed
np.save(sys.argv[2], OnnxEncoder(sys.argv[1]).encode(np.load(sys.argv[3])))
assert not HIDDEN & set(sys.modules), HIDDEN & set(sys.modules)
try:
    export_onnx(None, "never.onnx")
except ImportError as error:
    print(error)
"""


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
