"""float16 files of graphs whose values float16 cannot hold, judged by ONNX's reference evaluator in true float16.

The graphs are made by hand, so that the values between their operations are known.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from keras_tfcl.export import OnnxEncoder, ParityWarning, QuantizationError, to_float16
from keras_tfcl.export import float16 as conversion

RANDOM = np.random.default_rng(0)
LARGEST = 65504  # of float16


def weights(*shape):
    return (RANDOM.normal(size=shape) / np.sqrt(shape[0])).astype("float32")


def node(operation, inputs, output, **attributes):
    """An operation; `-` is an input left out."""
    return helper.make_node(operation, inputs.replace("-", "").split(" "), [output], name=output, **attributes)


def save(path, nodes, tensors, shape=(8,), kind=TensorProto.FLOAT, width=6):
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info("x", kind, ("batch", *shape))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("batch", width))],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def rows(n=40, *shape):
    return np.random.default_rng(1).normal(size=(n, *(shape or (8,)))).astype("float32")


def worst_cosine(path, half, x):
    """Between the float32 file in onnxruntime and the float16 file in the reference evaluator."""
    expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    with np.errstate(all="ignore"):
        received = ReferenceEvaluator(onnx.load(half)).run(None, {"x": x})[0]
    assert received.dtype == np.float32
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(received.astype("float64"), axis=1)
    return ((expected.astype("float64") * received).sum(1) / lengths).min()


def stored(path):
    return {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}


def between(scale):
    """Two layers; the values between them are `scale` times what they were before."""
    nodes = [
        node("MatMul", "x a", "h"),
        node("Mul", "h up", "large"),
        node("Relu", "large", "r"),
        node("Mul", "r down", "small"),
        node("MatMul", "small b", "embedding"),
    ]
    scales = {"up": np.float32(scale), "down": np.float32(1 / scale)}
    return nodes, {"a": weights(8, 32), "b": weights(32, 6), **scales}


@pytest.mark.parametrize("scale", [3e4, 1e7, 1e30, 1e-6, 1e-9, 1e-30])
def test_values_that_overflow_or_vanish_between_two_layers(tmp_path, scale):
    path = save(tmp_path / "x.onnx", *between(scale))
    report = to_float16(path, tmp_path / "half.onnx", samples=rows())
    assert worst_cosine(path, tmp_path / "half.onnx", rows()) > 0.9999
    assert {name.split()[1] for name in report.kept_in_float32} == {"large", "r", "small"}
    assert TensorProto.FLOAT16 in stored(tmp_path / "half.onnx").values()
    assert "kept in float32" in str(report) and "Relu r" in str(report)


def test_ordinary_values_keep_nothing(tmp_path):
    path = save(tmp_path / "x.onnx", *between(8.0))
    report = to_float16(path, tmp_path / "half.onnx", samples=rows())
    assert report.kept_in_float32 == ()
    assert {"a_as_float16", "b_as_float16"} <= set(stored(tmp_path / "half.onnx"))


def test_a_row_that_vanishes_among_rows_that_do_not(tmp_path):
    path = save(tmp_path / "x.onnx", *between(1.0))
    x = rows()
    x[7] *= 1e-8
    with pytest.raises(QuantizationError, match="Keep the float32 file"):
        to_float16(path, tmp_path / "half.onnx", samples=x)


def test_squares_that_no_tensor_shows(tmp_path):
    """ReduceL2 of 900 values of 300 gives 9,000; the sum of their squares is 8e7."""
    nodes = [
        node("MatMul", "x a", "h"),
        node("ReduceL2", "h", "length", axes=[1], keepdims=1),
        node("Div", "h length", "u"),
        node("MatMul", "u b", "embedding"),
    ]
    path = save(tmp_path / "x.onnx", nodes, {"a": 300 * weights(8, 900), "b": weights(900, 6)})
    assert np.abs(rows() @ (300 * np.eye(8))).max() ** 2 * 900 > LARGEST
    report = to_float16(path, tmp_path / "half.onnx", samples=rows())
    assert report.kept_in_float32 == ("ReduceL2 length",)
    assert worst_cosine(path, tmp_path / "half.onnx", rows()) > 0.9999


def test_masks_of_minus_a_billion_and_minus_infinity(tmp_path):
    for mask in (-1e9, -np.inf):
        nodes = [
            node("MatMul", "x a", "h"),
            node("Add", "h mask", "masked"),
            node("Softmax", "masked", "s", axis=-1),
            node("MatMul", "s b", "embedding"),
        ]
        tensors = {"a": weights(8, 12), "b": weights(12, 6)}
        tensors["mask"] = np.where(np.arange(12) < 9, 0, mask).astype("float32")
        path = save(tmp_path / "x.onnx", nodes, tensors)
        report = to_float16(path, tmp_path / "half.onnx", samples=rows())
        assert len(report.kept_in_float32) == (2 if np.isfinite(mask) else 0)
        assert worst_cosine(path, tmp_path / "half.onnx", rows()) > 0.9999


def test_numbers_of_tokens_in_a_float_input_stay_exact(tmp_path):
    """float16 has no 2,049."""
    nodes = [
        node("Cast", "x", "ids", to=TensorProto.INT64),
        node("Gather", "table ids", "words"),
        node("ReduceMean", "words", "mean", axes=[1], keepdims=0),
        node("MatMul", "mean b", "embedding"),
    ]
    path = save(tmp_path / "x.onnx", nodes, {"table": weights(3000, 16), "b": weights(16, 6)}, shape=(1,))
    x = np.arange(2041, 2071).astype("float32")[:, None]
    to_float16(path, tmp_path / "half.onnx", samples=x)
    assert worst_cosine(path, tmp_path / "half.onnx", x) > 0.9999
    assert stored(tmp_path / "half.onnx")["table_as_float16"] == TensorProto.FLOAT16


def test_sizes_are_computed_exactly(tmp_path):
    """In float16 96 / 224 is too small, and the image would become 95 pixels wide."""
    nodes = [
        node("Shape", "x", "shape", start=2),
        node("Cast", "shape", "sizes", to=TensorProto.FLOAT),
        node("Div", "wanted sizes", "factors"),
        node("Concat", "ones factors", "scales", axis=0),
        node("Resize", "x - scales", "small", mode="linear"),
        node("Conv", "small k", "c"),
        node("Flatten", "c", "embedding"),
    ]
    assert int(224 * float(np.float16(96 / 224))) == 95
    tensors = {"wanted": np.array([96, 96], "float32"), "ones": np.ones(2, "float32"), "k": weights(6, 1, 96, 96)}
    path = save(tmp_path / "x.onnx", nodes, tensors, shape=(1, "height", "width"))
    x = rows(4, 1, 224, 224)
    to_float16(path, tmp_path / "half.onnx", samples=x)
    assert worst_cosine(path, tmp_path / "half.onnx", x) > 0.999
    assert stored(tmp_path / "half.onnx")["k_as_float16"] == TensorProto.FLOAT16


def test_a_branch_reads_its_tensors_from_outside_in_float32(tmp_path):
    def branch(name, operation):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(operation, ["h"], [name])], name, [], [value])

    nodes = [
        node("MatMul", "x a", "h"),
        node("ReduceMax", "x", "most", keepdims=0),
        node("Greater", "most zero", "positive"),
        node("If", "positive", "r", then_branch=branch("t", "Relu"), else_branch=branch("e", "Neg")),
        node("MatMul", "r b", "embedding"),
    ]
    path = save(tmp_path / "x.onnx", nodes, {"a": weights(8, 12), "b": weights(12, 6), "zero": np.float32(0)})
    to_float16(path, tmp_path / "half.onnx", samples=rows())
    assert worst_cosine(path, tmp_path / "half.onnx", rows()) > 0.9999


def test_the_largest_value_in_one_axis(tmp_path):
    """GlobalMaxPool of sequences, which the reference evaluator of onnx 1.23 computes wrongly in any precision."""
    nodes = [node("Conv", "x k", "c"), node("GlobalMaxPool", "c", "p"), node("Flatten", "p", "embedding")]
    path = save(tmp_path / "x.onnx", nodes, {"k": weights(6, 4, 3)}, shape=(4, 9))
    report = to_float16(path, tmp_path / "half.onnx", samples=rows(40, 4, 9))
    assert report.recall.min_cosine > 0.9999


@pytest.mark.parametrize("width", [6, 3])
def test_the_embedding_is_what_is_checked_where_other_outputs_stand_before_it(tmp_path, recwarn, width):
    nodes, tensors = between(8.0)
    path = save(tmp_path / "x.onnx", nodes, tensors)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(weights(6, width), "c"))
    model.graph.node.append(node("MatMul", "embedding c", "scores"))
    embedding = model.graph.output.pop()
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("batch", width))
    model.graph.output.extend([scores, embedding])
    onnx.save(model, path)
    assert OnnxEncoder(path).output == "embedding"
    assert to_float16(path, tmp_path / "half.onnx", samples=rows()).recall.min_cosine > 0.9999
    assert not recwarn.list
    x = rows(600)
    x[1] *= 1e8  # not measured, and beyond float16
    with pytest.raises(QuantizationError, match="nan for row 1"):
        to_float16(path, tmp_path / "other.onnx", samples=x)


def test_nothing_left_for_float16(tmp_path):
    path = save(tmp_path / "x.onnx", [node("MatMul", "x a", "embedding")], {"a": 1e6 * weights(8, 6)})
    with pytest.raises(QuantizationError, match=r"weights to store in float16.*Keep the float32 file"):
        to_float16(path, tmp_path / "half.onnx", samples=rows())
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]


def test_an_overflow_that_was_not_measured_is_refused_by_name(tmp_path):
    """One of 600 rows is 1e4 times larger. It is not measured, but the largest row is always checked."""
    path = save(tmp_path / "x.onnx", *between(16.0))
    x = rows(600)
    x[1] *= 1e4
    with pytest.raises(QuantizationError, match=r"nan for row 1, where (MatMul h|Mul large) is the first to give NaN"):
        to_float16(path, tmp_path / "half.onnx", samples=x)
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]
    x[0], x[1] = x[1], x[0]  # the remedy: samples that show it
    to_float16(path, tmp_path / "half.onnx", samples=x)
    assert worst_cosine(path, tmp_path / "half.onnx", x[:40]) > 0.9999


def test_a_fault_of_the_evaluator_is_not_blamed_on_float16(tmp_path, monkeypatch):
    class Broken:
        def run(self, *arguments, **options):
            raise NotImplementedError("Loop")

    monkeypatch.setattr(conversion, "_reference_evaluator", lambda model: Broken())
    path = save(tmp_path / "x.onnx", *between(8.0))
    with pytest.warns(ParityWarning, match="could not be checked in true float16.*Loop.*on your GPU"):
        to_float16(path, tmp_path / "half.onnx", samples=rows())
    assert OnnxEncoder(tmp_path / "half.onnx").encode(rows()).shape == (40, 6)
