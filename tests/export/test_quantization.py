"""Int8 and float16 files: what they are made of, what their reports say, and what leaves no file."""

import hashlib
import json
import logging
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from keras_tfcl.atomic_write import write_atomically
from keras_tfcl.export import (
    InputError,
    ModelFileError,
    OnnxEncoder,
    ParityWarning,
    QuantizationError,
    RecallError,
    compare_neighbours,
    quantize,
    quantized_model,
    to_float16,
)

RANDOM = np.random.default_rng(0)
NORMALIZE = [
    helper.make_node("Mul", ["body", "body"], ["squares"]),
    helper.make_node("ReduceSum", ["squares", "last"], ["sum"], keepdims=1),
    helper.make_node("Sqrt", ["sum"], ["length"]),
    helper.make_node("Div", ["body", "length"], ["embedding"]),
]


def weights(*shape):
    return (RANDOM.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")


def save(path, nodes, input_shape, tensors):
    tensors = tensors | {"last": np.array([-1])}
    graph = helper.make_graph(
        [*nodes, *NORMALIZE],
        "by hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", *input_shape))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("batch", 16))],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = {"schema": 1, "weights_sha256": "of the float model", "parity": {"passed": True}, "notes": {"kept": 1}}
    helper.set_model_props(model, {"keras_tfcl": json.dumps(facts)})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Two dense layers and the division by the length."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b", "bias"], ["body"]),
    ]
    tensors = {"a": weights(32, 128), "b": weights(128, 16), "bias": weights(16)}
    return save(tmp_path_factory.mktemp("dense") / "dense.onnx", nodes, (32,), tensors)


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory):
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "l"], ["d"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["d"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "m"], ["body"]),
    ]
    tensors = {"k": weights(16, 3, 3, 3), "l": weights(32, 16, 3, 3), "m": weights(32, 16)}
    return save(tmp_path_factory.mktemp("conv") / "conv.onnx", nodes, (3, 12, 12), tensors)


def rows(n=120):
    return np.random.default_rng(1).normal(size=(n, 32)).astype("float32")


def images(n=120):
    rng = np.random.default_rng(2)
    return (rng.normal(size=(n, 3, 1, 1)) * 2 + rng.normal(size=(n, 3, 12, 12))).astype("float32")


def operations(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def overlap_by_hand(a, b, k):
    """Mean share of the k nearest by cosine that agree, in plain loops."""
    shares = []
    for i in range(len(a)):
        near = []
        for table in (a.astype("float64"), b.astype("float64")):
            cosines = {
                j: float(table[i] @ table[j] / np.sqrt((table[i] @ table[i]) * (table[j] @ table[j])))
                for j in range(len(table))
                if j != i
            }
            near.append(set(sorted(cosines, key=lambda j: -cosines[j])[:k]))
        shares.append(len(near[0] & near[1]) / k)
    return np.mean(shares)


def test_dynamic(dense, tmp_path):
    out = tmp_path / "int8.onnx"
    report = quantize(dense, out, samples=rows(), min_recall=0.5)
    assert report.mode == "dynamic"
    assert {"MatMulInteger"} <= operations(out)
    assert report.bytes == out.stat().st_size < 0.5 * dense.stat().st_size == 0.5 * report.float_bytes
    before, after = OnnxEncoder(dense).encode(rows()), OnnxEncoder(out).encode(rows())
    assert 1e-5 < np.abs(before - after).max() < 0.05
    assert report.recall.rows == 120
    for k in (1, 10):
        assert report.recall.overlap[k] == pytest.approx(overlap_by_hand(before, after, k))
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)
    assert report.recall.min_cosine == pytest.approx((before * after).sum(1).min(), abs=1e-5)


@pytest.mark.parametrize("write", [quantize, to_float16])
def test_a_model_that_is_replaced_meanwhile(dense, tmp_path, monkeypatch, write):
    path, other, embed = tmp_path / "dense.onnx", onnx.load(dense), quantized_model.embed_different
    path.write_bytes(dense.read_bytes())
    del other.metadata_props[:]

    def embed_then_replace(*arguments):
        write_atomically(path, other.SerializeToString())
        return embed(*arguments)

    monkeypatch.setattr(quantized_model, "embed_different", embed_then_replace)
    with pytest.raises(QuantizationError, match=r"must not change.*dense\.onnx, which was replaced"):
        write(path, tmp_path / "small.onnx", samples=rows())
    assert [file.name for file in tmp_path.iterdir()] == ["dense.onnx"]


def test_products_of_an_attention(tmp_path):
    """tf2onnx writes the einsum of an attention as a Gemm without a bias whose factor is 0."""
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], beta=0.0, transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b", "bias"], ["body"], transB=1),
    ]
    path = save(tmp_path / "x.onnx", nodes, (32,), {"a": weights(64, 32), "b": weights(16, 64), "bias": weights(16)})
    report = quantize(path, tmp_path / "int8.onnx", samples=rows(), mode="dynamic")
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert kinds.count("MatMulInteger") == 2
    assert report.recall.min_cosine > 0.99


def test_static(convolutional, tmp_path):
    out = tmp_path / "int8.onnx"
    report = quantize(convolutional, out, samples=images(), calibration=images(40))
    assert report.mode == "static"
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= operations(out)
    assert report.recall.rows == 120
    assert report.recall.mean_cosine > 0.99
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(out).graph.initializer if len(tensor.dims) == 4}
    assert set(stored.values()) == {TensorProto.INT8}
    for node in onnx.load(out).graph.node:  # the division by the length is not rounded
        if node.op_type in ("Sqrt", "ReduceSum"):
            assert not any("Quantize" in name for name in node.input)


def test_static_splits_samples_without_calibration(convolutional, tmp_path):
    report = quantize(convolutional, tmp_path / "int8.onnx", samples=images(101), mode="static")
    assert report.recall.rows == 50


def test_float16(dense, tmp_path):
    out = tmp_path / "half.onnx"
    report = to_float16(dense, out, samples=rows())
    assert report.mode == "float16"
    assert report.bytes < 0.65 * report.float_bytes
    onnx.checker.check_model(str(out), full_check=True)
    before, after = OnnxEncoder(dense).encode(rows()), OnnxEncoder(out).encode(rows())
    assert OnnxEncoder(out).inputs == OnnxEncoder(dense).inputs
    assert 1e-6 < np.abs(before - after).max() < 2e-3
    assert report.recall.overlap[10] > 0.98


def test_float16_keeps_lengths_that_float16_cannot_hold(tmp_path):
    """Squares of 1000 overflow float16; squares of 1e-4 vanish in it. Only if the end stays float32 is all well."""
    for scale in (1000, 1e-4):
        nodes = [helper.make_node("MatMul", ["x", "a"], ["body"])]
        path = save(tmp_path / "x.onnx", nodes, (32,), {"a": weights(32, 16)})
        to_float16(path, tmp_path / "half.onnx", samples=rows())
        before, after = (OnnxEncoder(p).encode(scale * rows()) for p in (path, tmp_path / "half.onnx"))
        assert ((before * after).sum(1) > 0.999).all()
        np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("mode", ["int8", "float16"])
def test_metadata_names_the_float_model(dense, tmp_path, mode):
    out = tmp_path / "quantized.onnx"
    report = (quantize if mode == "int8" else to_float16)(dense, out, samples=rows())
    metadata = OnnxEncoder(out).metadata
    assert metadata["quantization"]["float_weights_sha256"] == metadata["weights_sha256"] == "of the float model"
    assert metadata["quantization"]["mode"] == report.mode
    assert metadata["quantization"]["recall"]["overlap"]["10"] == report.recall.overlap[10]
    assert metadata["notes"] == {"kept": 1}
    assert "parity" not in metadata  # it was measured on the float model
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert stored["path"] == str(out)
    for text in ("quantized.onnx", "of 10", "float model", "120"):
        assert text in str(report)
    with pytest.raises(QuantizationError, match="a quantized one"):
        quantize(out, tmp_path / "again.onnx", samples=rows())


def test_a_mismatch_of_the_float_model_is_not_forgotten(dense, tmp_path):
    model = onnx.load(dense)
    facts = json.loads(model.metadata_props[0].value) | {"parity": {"passed": False, "max_abs_diff": 0.5}}
    helper.set_model_props(model, {"keras_tfcl": json.dumps(facts)})
    onnx.save(model, tmp_path / "float.onnx")
    with pytest.warns(ParityWarning):
        to_float16(tmp_path / "float.onnx", tmp_path / "half.onnx", samples=rows())
    with pytest.warns(ParityWarning, match=r"half\.onnx.*0\.5"):
        OnnxEncoder(tmp_path / "half.onnx")


@pytest.mark.parametrize("given", ["samples", "calibration"])
def test_rows_that_the_float_model_cannot_embed_are_what_is_blamed(tmp_path, given):
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("ReduceMean", ["words"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "a"], ["body"]),
    ]
    path = save(tmp_path / "x.onnx", nodes, (6,), {"table": weights(9, 32), "a": weights(32, 16)})
    good, bad = np.random.default_rng(3).integers(0, 9, (40, 6)), np.full((40, 6), 9)
    with pytest.raises(InputError, match="index ranges"):
        quantize(path, tmp_path / "y.onnx", mode="static", **{"samples": good, "calibration": good, given: bad})
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]


def test_too_low_a_recall_keeps_the_old_file(dense, tmp_path):
    out = tmp_path / "int8.onnx"
    out.write_bytes(b"old")
    with pytest.raises(RecallError, match=r"At least 100.0% of the 10 nearest.*Received: \d\d\.\d% on 120 rows"):
        quantize(dense, out, samples=rows(), min_recall=1.0)
    assert out.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["int8.onnx"]


BAD = {
    "mode": (dict(mode="int4"), ValueError, "`mode`"),
    "recall above 1": (dict(min_recall=95), ValueError, "from 0 to 1"),
    "few rows": (dict(samples=rows(2)), ValueError, "at least 3 samples"),
    "few rows for the gate": (dict(samples=rows(20), min_recall=0.5), ValueError, "at least 21 samples. Received: 20"),
    "few rows to halve": (
        dict(samples=rows(40), min_recall=0.5, mode="static"),
        ValueError,
        "at least 42 samples, as static mode without `calibration` compares every second one. Received: 40",
    ),
    "wrong shape": (dict(samples=np.zeros((30, 7))), InputError, "shape"),
    "no calibration": (dict(mode="static", calibration=rows(0)), ValueError, "`calibration`"),
}


@pytest.mark.parametrize(("arguments", "error", "text"), BAD.values(), ids=BAD)
def test_wrong_arguments(dense, tmp_path, arguments, error, text):
    with pytest.raises(error, match=text):
        quantize(dense, tmp_path / "x.onnx", **{"samples": rows(), **arguments})
    assert list(tmp_path.iterdir()) == []


def test_wrong_files(dense, tmp_path):
    with pytest.raises(ValueError, match="another file"):
        quantize(dense, dense, samples=rows())
    (tmp_path / "bad.onnx").write_bytes(b"not onnx")
    with pytest.raises(ModelFileError):
        to_float16(tmp_path / "bad.onnx", tmp_path / "x.onnx", samples=rows())
    with pytest.raises(FileNotFoundError, match="folder"):
        quantize(dense, tmp_path / "missing" / "x.onnx", samples=rows())
    assert [file.name for file in tmp_path.iterdir()] == ["bad.onnx"]


def test_nothing_to_quantize(tmp_path):
    path = save(tmp_path / "x.onnx", [helper.make_node("Tanh", ["x"], ["body"])], (16,), {})
    samples = rows()[:, :16]
    with pytest.raises(QuantizationError, match="a model without"):
        quantize(path, tmp_path / "int8.onnx", samples=samples, mode="dynamic")
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]


def rebuilt(source, path, change):
    """A copy of a file of our own fixtures, without metadata, after `change(model)`."""
    model = onnx.load(source)
    helper.set_model_props(model, {})
    change(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", ["samples", "calibration"])
@pytest.mark.parametrize("value", [0, 3])
def test_samples_that_are_all_the_same_say_nothing(dense, tmp_path, name, value):
    """All neighbours would be kept, and all ranges would be a point: the file gave zeros for every sample."""
    same = np.full((60, 32), value, "float32")
    with pytest.raises(ValueError, match=rf"`{name}` must hold samples with different embeddings.*all \d+ of them"):
        quantize(dense, tmp_path / "x.onnx", mode="static", **{"samples": rows(), "calibration": rows(), name: same})
    assert list(tmp_path.iterdir()) == []


def test_calibration_of_a_mode_that_measures_no_ranges(dense, tmp_path):
    with pytest.raises(ValueError, match="`calibration` is for mode 'static'"):
        quantize(dense, tmp_path / "x.onnx", samples=rows(), mode="dynamic", calibration=rows())


def test_a_model_that_another_tool_has_quantized(dense, tmp_path):
    quantize(dense, tmp_path / "int8.onnx", samples=rows(), mode="dynamic")
    foreign = rebuilt(tmp_path / "int8.onnx", tmp_path / "foreign.onnx", lambda model: None)
    with pytest.raises(QuantizationError, match="needs a MatMul or Gemm with constant weights"):
        quantize(foreign, tmp_path / "again.onnx", samples=rows(), mode="dynamic")
    to_float16(dense, tmp_path / "half.onnx", samples=rows())
    foreign = rebuilt(tmp_path / "half.onnx", tmp_path / "foreign.onnx", rename_halves)
    with pytest.raises(QuantizationError, match="must have weights to store in float16"):
        to_float16(foreign, tmp_path / "again.onnx", samples=rows())
    assert not (tmp_path / "again.onnx").exists()


def rename_halves(model):
    """As another tool would call the weights."""
    for tensor in [*model.graph.initializer, *(node for node in model.graph.node if node.op_type == "Cast")]:
        tensor.name = tensor.name.replace("_as_float16", ".half")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("_as_float16", ".half") for name in names]


def test_a_folder(dense, tmp_path):
    (tmp_path / "model.onnx").write_bytes(dense.read_bytes())
    with pytest.raises(QuantizationError, match="Expected an ONNX file"):
        quantize(tmp_path, tmp_path / "x.onnx", samples=rows())


@pytest.mark.parametrize("mode", ["dynamic", "static", "float16"])
def test_the_file_is_what_was_compared(dense, tmp_path, mode):
    """The report, the embeddings of the file, its hash and its golden inputs belong to the same bytes."""
    out = tmp_path / "x.onnx"
    x = rows()
    arguments = {} if mode == "float16" else {"mode": mode}
    report = (to_float16 if mode == "float16" else quantize)(dense, out, samples=x, **arguments)
    compared = x[1::2] if mode == "static" else x
    a, b = OnnxEncoder(dense).encode(compared), OnnxEncoder(out).encode(compared)
    assert report.recall.min_cosine == pytest.approx((a * b).sum(1).min(), abs=1e-6)
    model = onnx.load(out)
    assert [entry.key for entry in model.metadata_props] == ["keras_tfcl"]
    (stored,) = (json.loads(entry.value) for entry in model.metadata_props)
    del model.metadata_props[:]
    assert stored["content_hash"] == f"sha256:{hashlib.sha256(model.SerializeToString()).hexdigest()}"
    assert stored["weights_sha256"] == "of the float model" and stored["notes"] == {"kept": 1}


def test_two_rows_of_zeros_agree():
    zeros = np.zeros((3, 4))
    assert compare_neighbours(zeros, zeros).min_cosine == 1
    assert compare_neighbours(zeros, np.eye(3, 4)).min_cosine == 0


def test_tools_leave_the_process_as_it_was(dense, tmp_path, capfd):
    path, handlers = list(sys.path), list(logging.getLogger().handlers)
    quantize(dense, tmp_path / "x.onnx", samples=rows())
    to_float16(dense, tmp_path / "y.onnx", samples=rows())
    assert sys.path == path
    assert logging.getLogger().handlers == handlers
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("module", ["onnx", "onnxruntime.quantization"])
def test_missing_packages_name_the_extra(dense, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"keras-tfcl\[quantize\]"):
        quantize(dense, tmp_path / "x.onnx", samples=rows())
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_tools_is_one_of_ours(dense, tmp_path, monkeypatch):
    import onnxruntime.quantization

    monkeypatch.setattr(onnxruntime.quantization, "quantize_dynamic", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(QuantizationError, match="ZeroDivisionError"):
        quantize(dense, tmp_path / "x.onnx", samples=rows())
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys, time
os.environ["KERAS_TFCL_ON_DEMAND"] = "1"
import numpy as np
from keras_tfcl.export import quantize, quantized_model
measured = quantized_model._measure
def slow(*args):
    report = measured(*args)
    print("working", flush=True)
    time.sleep(60)
quantized_model._measure = slow
quantize(sys.argv[1], sys.argv[2], samples=np.random.default_rng(1).normal(size=(60, 32)).astype("float32"))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_killed_run_leaves_nothing_beside_the_file(dense, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(dense), str(tmp_path / "int8.onnx")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    assert process.wait(timeout=20) == -number
    process.stdout.close()
    time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []
