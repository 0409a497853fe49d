"""Killed at any moment, an export leaves the old file or the new one, whole; what it leaves besides goes next time."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import onnx
import pytest

from keras_tfcl.export import OnnxEncoder, check_probes, export_onnx
from keras_tfcl.export.publish import draft_folder, publish

# Writes the files of a model of its own in place of the ones in argv[1], and kills itself at step argv[2] of those that
# touch the disk. argv[3] is how many bytes of the last file that was being written stay.
WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from keras_tfcl.export import datafile, publish

path, last = Path(sys.argv[1]), int(sys.argv[2])
steps = 0

def stop_at(function):
    def step(*arguments, **keywords):
        global steps
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return step

for name in ("fsync", "replace", "unlink", "mkdir", "rmdir"):
    setattr(os, name, stop_at(getattr(os, name)))
new = Path(sys.argv[3])
with publish.draft_folder(path) as folder:
    for file in sorted(new.iterdir()):
        publish.write_synced(folder / file.name, file.read_bytes())
    publish.publish(folder, path)
print(steps)
"""


def write_model(path, factor):
    """A model of two files, written by onnx."""
    matrix = onnx.numpy_helper.from_array(np.full((6, 4), factor, "float32"), "matrix")
    node = onnx.helper.make_node("MatMul", ["features", "matrix"], ["embedding"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "by hand",
        [value("features", onnx.TensorProto.FLOAT, ("batch", 6))],
        [value("embedding", onnx.TensorProto.FLOAT, ("batch", 4))],
        [matrix],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def run_writer(path, step, new):
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(path), str(step), str(new)], capture_output=True, text=True, check=False
    )


def test_killed_at_every_step_on_the_disk(tmp_path):
    new, place = tmp_path / "new", tmp_path / "place"
    new.mkdir()
    place.mkdir()
    path = place / "encoder.onnx"
    write_model(new / "encoder.onnx", 2)
    (new / "encoder.onnx.0123456789abcdef.data").write_bytes(b"new weights")
    x = np.ones((1, 6), "float32")
    total = int(run_writer(path, 0, new).stdout)
    assert total >= 6
    seen = set()
    for step in range(1, total + 1):
        write_model(path, 1)
        (place / "encoder.onnx.fedcba9876543210.data").write_bytes(b"old weights")
        assert run_writer(path, step, new).returncode == -signal.SIGKILL
        value = OnnxEncoder(path).encode(x)[0, 0]
        assert value in (6, 12)
        seen.add(value)
        needed = "fedcba9876543210" if value == 6 else "0123456789abcdef"
        assert (place / f"encoder.onnx.{needed}.data").exists()
    assert seen == {6, 12}
    assert run_writer(path, 0, new).returncode == 0
    assert sorted(os.listdir(place)) == ["encoder.onnx", "encoder.onnx.0123456789abcdef.data"]


def test_drafts_of_living_exports_stay(tmp_path):
    path = tmp_path / "encoder.onnx"
    with draft_folder(path) as first:
        with draft_folder(path) as second:
            assert first.exists()
            assert second != first
            (second / path.name).write_bytes(b"second")
            publish(second, path)
        (first / path.name).write_bytes(b"first")
        publish(first, path)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["encoder.onnx"]


def test_files_of_others_stay(tmp_path):
    others = [".encoder.onnx.mine", "encoder.onnx.data", "other.onnx.0123456789abcdef.data", ".other.onnx.x.draft"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    with draft_folder(tmp_path / "encoder.onnx") as folder:
        (folder / "encoder.onnx").write_bytes(b"model")
        publish(folder, tmp_path / "encoder.onnx")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "encoder.onnx"])


EXPORT = """
import os, signal, sys
import keras
from keras_tfcl.export import export_onnx

keras.utils.set_random_seed(2)
model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])

def progress(stage):
    if stage.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

export_onnx(model, sys.argv[1], progress=progress)
"""


@pytest.mark.slow
def test_killed_in_every_stage_of_an_export(tmp_path):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    path = tmp_path / "encoder.onnx"
    stages = []
    before = export_onnx(model, path, progress=stages.append).path.read_bytes()
    for stage in stages:
        done = subprocess.run([sys.executable, "-c", EXPORT, str(path), stage], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
        assert path.read_bytes() == before
        assert check_probes(path, "cpu").passed
    done = subprocess.run([sys.executable, "-c", EXPORT, str(path), "never"], capture_output=True, check=False)
    assert done.returncode == 0
    assert path.read_bytes() != before
    assert os.listdir(tmp_path) == ["encoder.onnx"]
