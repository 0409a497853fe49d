"""A disk that is full: an error in words, and the old file stays. A limit on the size of files stands for the disk."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from keras_tfcl.export import Index, OnnxEncoder

pytest.importorskip("typer")
COMMAND = str(Path(sys.executable).with_name("keras-tfcl"))
LIMIT = 20_000  # bytes


@pytest.fixture
def folder(tmp_path):
    """An encoder, rows whose embeddings are larger than the limit, and an index of three of them."""
    matrix = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(6, 32)).astype("float32"), "matrix")
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("MatMul", ["features", "matrix"], ["embedding"])]
    inputs = [value("features", TensorProto.FLOAT, ("batch", 6))]
    graph = helper.make_graph(nodes, "x", inputs, [value("embedding", TensorProto.FLOAT, ("batch", 32))], [matrix])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "encoder.onnx")
    rows = np.random.default_rng(1).normal(size=(1000, 6)).astype("float32")
    np.save(tmp_path / "rows.npy", rows)
    index = Index(OnnxEncoder(tmp_path / "encoder.onnx"))
    index.add(OnnxEncoder(tmp_path / "encoder.onnx").encode(rows[:3]))
    index.save(tmp_path / "old.index")
    for name in ("old.npy", "old.npz", "old.parquet"):
        (tmp_path / name).write_bytes(b"an earlier file")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        "index build encoder.onnx rows.npy -o old.index",
        "index add encoder.onnx old.index rows.npy",
        "embed encoder.onnx rows.npy -o old.npy",
        "embed encoder.onnx rows.npy -o old.npz",
        "embed encoder.onnx rows.npy -o old.parquet",
        "embed encoder.onnx rows.npy -o new.parquet --resume",
    ],
)
def test_nothing_is_lost_on_a_full_disk(folder, arguments):
    if "parquet" in arguments:
        pytest.importorskip("pyarrow")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    done = subprocess.run(
        [COMMAND, *arguments.split(), "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT)),
    )
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert said["ok"] is False and "File too large" in said["message"], said
    left = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert left == before
    folders = [file for file in folder.iterdir() if file.is_dir()]
    assert [file.name for file in folders] == [".new.parquet.parts"] * ("--resume" in arguments)
    if folders:  # with more room the run continues
        assert [file.name for file in folders[0].iterdir()] == ["lock"]
        again = subprocess.run([COMMAND, *arguments.split()], cwd=folder, capture_output=True, text=True, check=False)
        assert again.returncode == 0 and "1000 embeddings" in again.stdout
