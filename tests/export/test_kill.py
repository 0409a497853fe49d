"""Killed at any moment, an export leaves the old file or the new one, whole; what it leaves besides goes next time."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import onnx
import pytest

from keras_tfcl import atomic_write as atomic_write_module
from keras_tfcl.atomic_write import atomic_write, locked_file
from keras_tfcl.export import OnnxEncoder, check_probes, export_onnx

# Writes the files of folder argv[2] as argv[3], and kills itself before step argv[4] of those that touch the disk.
# `atomic_write.py` alone, by its path argv[1]: with TensorFlow imported each of the many processes would take seconds.
WRITER = """
import os, runpy, signal, sys
from pathlib import Path

module = runpy.run_path(sys.argv[1])
new, path, last = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
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
with module["atomic_write"](path) as temporary:
    for file in sorted(new.iterdir()):
        module["write_synced"](temporary.with_name(file.name), file.read_bytes())
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


def run_writer(new, path, step):
    command = [sys.executable, "-I", "-c", WRITER, atomic_write_module.__file__, str(new), str(path), str(step)]
    return subprocess.run(command, check=False).returncode


def test_killed_before_every_step_on_the_disk(tmp_path):
    new, place = tmp_path / "new", tmp_path / "place"
    new.mkdir()
    place.mkdir()
    path = place / "encoder.onnx"
    write_model(new / "encoder.onnx", 2)
    (new / "encoder.onnx.0123456789abcdef.data").write_bytes(b"new weights")
    seen = []
    for step in itertools.count(1):
        shutil.rmtree(place)
        place.mkdir()
        write_model(path, 1)
        (place / "encoder.onnx.fedcba9876543210.data").write_bytes(b"old weights")
        ended = run_writer(new, path, step)
        value = OnnxEncoder(path).encode(np.ones((1, 6), "float32"))[0, 0]
        seen.append(value)
        needed = {6: "fedcba9876543210", 12: "0123456789abcdef"}[value]
        assert (place / f"encoder.onnx.{needed}.data").exists()
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        shutil.copytree(place, tmp_path / f"killed at {step}")
    assert seen == [6] * 5 + [12] * 4  # mkdir, two writes, two moves; then sync, removal of old data and draft, the end
    for killed in tmp_path.glob("killed at *"):
        assert run_writer(new, killed / path.name, step=0) == 0
        assert sorted(os.listdir(killed)) == ["encoder.onnx", "encoder.onnx.0123456789abcdef.data"]


def test_folders_of_living_processes_stay(tmp_path):
    path = tmp_path / "encoder.onnx"
    with atomic_write(path) as first:
        with atomic_write(path) as second:
            assert first.parent.exists()
            assert second != first
            second.write_bytes(b"second")
        assert path.read_bytes() == b"second"
        first.write_bytes(b"first")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["encoder.onnx"]


def test_files_of_others_stay(tmp_path):
    others = [".encoder.onnx.mine", "encoder.onnx.data", "other.onnx.0123456789abcdef.data", ".other.onnx.x.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    with atomic_write(tmp_path / "encoder.onnx") as temporary:
        temporary.write_bytes(b"model")
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


def test_changes_under_the_lock_of_a_file_that_each_of_them_replaces_are_all_kept(tmp_path):
    path = tmp_path / "number"
    path.write_text("0")

    def count():
        for _ in range(10):
            with locked_file(path):
                number = int(path.read_text())
                time.sleep(0.002)
                with atomic_write(path) as draft:
                    draft.write_text(str(number + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "40"
