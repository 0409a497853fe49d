"""`keras-tfcl embed --resume`: killed at any moment, a run loses nothing and writes nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from keras_tfcl.atomic_write import locked_file
from keras_tfcl.export import Index, InputError, OnnxEncoder
from keras_tfcl.export.runtime import resume as resume_module

parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("typer")

COMMAND = str(Path(sys.executable).with_name("keras-tfcl"))
MATRIX = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def write_encoder(path, weights="a", **metadata):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "matrix"], ["embedding"])],
        "by hand",
        [value("features", TensorProto.FLOAT, ("batch", 6))],
        [value("embedding", TensorProto.FLOAT, ("batch", 4))],
        [onnx.numpy_helper.from_array(MATRIX, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if weights:
        helper.set_model_props(model, {"keras_tfcl": json.dumps({"schema": 1, "weights_sha256": weights, **metadata})})
    else:  # as another tool writes it
        helper.set_model_props(model, {"other_tool": json.dumps(metadata)})
    path.write_bytes(model.SerializeToString())
    return OnnxEncoder(path)


def check(path, x, ids):
    table = parquet.read_table(path)
    found = dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    assert len(table) == len(found) == len(ids) and set(found) == set(ids)
    np.testing.assert_allclose([found[name] for name in ids], x @ MATRIX, rtol=1e-5, atol=1e-5)


def test_killed_again_and_again(tmp_path):
    write_encoder(tmp_path / "encoder.onnx")
    x = np.random.default_rng(1).normal(size=(60_000, 6)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    out, parts = tmp_path / "x.parquet", tmp_path / ".x.parquet.parts"
    command = [
        COMMAND,
        "embed",
        tmp_path / "encoder.onnx",
        tmp_path / "x.npy",
        "-o",
        out,
        "--resume",
        "--batch-size",
        "1",
    ]
    kills = 0
    for _ in range(3):
        before = len([*parts.glob("*.parquet")])
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
        while process.poll() is None and len([*parts.glob("*.parquet")]) < before + 2:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 3 and not out.exists() and len([*parts.glob("*.parquet")]) >= 6
    done = subprocess.run([*map(str, command), "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"] == len(x) and not parts.exists()
    check(out, x, range(len(x)))


def test_a_run_that_was_killed_before_its_parts_were_removed(tmp_path, monkeypatch):
    encoder = write_encoder(tmp_path / "encoder.onnx")
    x = np.random.default_rng(1).normal(size=(50, 6)).astype("float32")
    monkeypatch.setattr(resume_module, "PART_ROWS", 16)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def die(folder, ignore_errors):
            raise KeyboardInterrupt

        patch.setattr(resume_module, "shutil", SimpleNamespace(rmtree=die))
        encoder.encode_to(x, tmp_path / "x.parquet", batch_size=8, resume=True)
    assert encoder.encode_to(x, tmp_path / "x.parquet", batch_size=8, resume=True) == 50
    check(tmp_path / "x.parquet", x, range(50))


def test_a_second_process_is_refused_meanwhile(tmp_path):
    write_encoder(tmp_path / "encoder.onnx")
    encoder, x, out = OnnxEncoder(tmp_path / "encoder.onnx"), np.ones((3, 6), "float32"), tmp_path / "x.parquet"
    (tmp_path / ".x.parquet.parts").mkdir()
    (tmp_path / ".x.parquet.parts" / "lock").touch()
    with locked_file(tmp_path / ".x.parquet.parts" / "lock"):
        with pytest.raises(InputError, match=r"One process at a time can resume a file. Received: .*x.parquet"):
            encoder.encode_to(x, out, resume=True)
    assert encoder.encode_to(x, out, resume=True) == 3
    check(out, x, range(3))


def test_a_target_that_is_replaced_meanwhile(tmp_path):
    encoder, other = write_encoder(tmp_path / "encoder.onnx"), write_encoder(tmp_path / "other.onnx", "b")
    x = np.random.default_rng(1).normal(size=(9, 6)).astype("float32")
    path = tmp_path / "x.parquet"
    encoder.encode_to(x[:4], path, resume=True)
    run = encoder.encode_iter

    def replace_then_embed(stream, **options):
        other.encode_to(-x[:2], path, ids=range(2))
        return run(stream, **options)

    encoder.encode_iter = replace_then_embed
    assert encoder.encode_to(x, path, resume=True) == 9
    check(path, x, range(9))


def test_a_process_that_begins_while_another_ends(tmp_path, monkeypatch):
    encoder, x = write_encoder(tmp_path / "encoder.onnx"), np.ones((3, 6), "float32")
    remove = os.rmdir

    def begin_then_remove(folder, **options):
        if str(folder).endswith(".parts"):
            monkeypatch.setattr(os, "rmdir", remove)
            (tmp_path / ".x.parquet.parts" / "lock").touch()
        remove(folder, **options)

    monkeypatch.setattr(os, "rmdir", begin_then_remove)
    assert encoder.encode_to(x, tmp_path / "x.parquet", resume=True) == 3
    assert encoder.encode_to(x, tmp_path / "x.parquet", resume=True) == 3
    assert not (tmp_path / ".x.parquet.parts").exists()


def test_only_a_batch_of_a_mapped_array_is_read_at_a_time(tmp_path):
    read = []

    class Rows(np.ndarray):
        def __getitem__(self, key):
            read.extend([len(key)] * isinstance(key, list))
            return super().__getitem__(key)

    encoder, x = write_encoder(tmp_path / "encoder.onnx"), np.random.default_rng(1).normal(size=(50, 6)).view(Rows)
    encoder._batch_size = 8
    assert encoder.encode_to(x, tmp_path / "x.parquet", resume=True) == 50
    assert read == [8] * 6 + [2]
    check(tmp_path / "x.parquet", np.asarray(x), range(50))


def test_what_is_new_is_added(tmp_path):
    encoder = write_encoder(tmp_path / "encoder.onnx")
    x = np.random.default_rng(1).normal(size=(9, 6)).astype("float32")
    names, path = [f"row {i}" for i in range(9)], tmp_path / "x.parquet"
    assert encoder.encode_to(x[:4], path, ids=names[:4], resume=True) == 4
    embedded = []
    run = encoder.encode_iter
    encoder.encode_iter = lambda stream, **options: run((embedded.append(rows) or rows for rows in stream), **options)
    assert encoder.encode_to(x[::-1], path, ids=names[::-1], resume=True) == 9
    assert sum(map(len, embedded)) == 5
    check(path, x, names)


def test_images_that_cannot_be_read_are_tried_again(tmp_path):
    encoder = write_encoder(tmp_path / "encoder.onnx")
    image = pytest.importorskip("PIL.Image")
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Cast", ["image"], ["x"], to=1), helper.make_node("Flatten", ["x"], ["embedding"])]
    graph = helper.make_graph(
        nodes,
        "pixels",
        [value("image", TensorProto.UINT8, ("batch", 1, 1, 3))],
        [value("embedding", TensorProto.FLOAT, ("batch", 3))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "pixels.onnx")
    encoder = OnnxEncoder(tmp_path / "pixels.onnx")
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i in (0, 1, 3):
        image.new("RGB", (1, 1), (i, 0, 0)).save(paths[i])
    paths[2].write_bytes(b"broken")
    seen = []

    def skip(position, path, error):
        seen.append((position, path))

    options = {"ids": paths, "on_error": skip, "resume": True}
    assert encoder.encode_to(paths, tmp_path / "x.parquet", **options) == 3
    assert encoder.encode_to(paths, tmp_path / "x.parquet", **options) == 3
    assert seen == [(2, paths[2])] * 2
    image.new("RGB", (1, 1), (2, 0, 0)).save(paths[2])
    assert encoder.encode_to(paths, tmp_path / "x.parquet", **options) == 4
    table = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert {row["id"]: row["embedding"][0] for row in table} == {str(path): i for i, path in enumerate(paths)}


def test_what_cannot_be_resumed(tmp_path):
    encoder = write_encoder(tmp_path / "encoder.onnx")
    x = np.ones((3, 6), "float32")
    encoder.encode_to(x, tmp_path / "x.parquet", resume=True)
    with pytest.raises(InputError, match=r"`ids` must be of one kind in all runs.*x\.parquet"):
        encoder.encode_to(x, tmp_path / "x.parquet", ids=["a", "b", "c"], resume=True)
    with pytest.raises(InputError, match="another one wrote"):
        write_encoder(tmp_path / "other.onnx", "b").encode_to(x, tmp_path / "x.parquet", resume=True)
    quantized = write_encoder(tmp_path / "int8.onnx", quantization={"mode": "dynamic"})  # of the same weights
    with pytest.raises(InputError, match="another one wrote"):
        quantized.encode_to(x, tmp_path / "x.parquet", resume=True)
    one, two = (write_encoder(tmp_path / f"{name}.onnx", None, made_by=name) for name in ("one", "two"))
    one.encode_to(x, tmp_path / "foreign.parquet", resume=True)
    assert one.encode_to(x, tmp_path / "foreign.parquet", resume=True) == 3
    with pytest.raises(InputError, match="another one wrote"):
        two.encode_to(x, tmp_path / "foreign.parquet", resume=True)
    with pytest.raises(InputError, match="only with the encoder that filled it"):
        Index(one).check_encoder(two)
    with pytest.raises(ValueError, match=r"\.parquet"):
        encoder.encode_to(x, tmp_path / "x.npy", resume=True)
    with pytest.raises(InputError, match="generator"):
        encoder.encode_to((row for row in x), tmp_path / "y.parquet", resume=True)
    with pytest.raises(ValueError, match="2 different ones of 3"):
        encoder.encode_to(x, tmp_path / "y.parquet", ids=["a", "b", "a"], resume=True)
