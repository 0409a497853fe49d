"""The layout of Triton, checked against its published schema."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from keras_tfcl.atomic_write import write_atomically
from keras_tfcl.export import ModelFileError, OnnxEncoder, export_onnx
from keras_tfcl.export.runtime.triton import write_triton_repository


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    tokens, mask = keras.Input((None,), dtype="int32", name="tokens"), keras.Input((3,), name="mask")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(tokens))
    model = keras.Model([tokens, mask], keras.layers.Dense(5)(keras.layers.Concatenate()([pooled, mask])))
    path = tmp_path_factory.mktemp("triton") / "text.onnx"
    export_onnx(model, path)
    return path


def test_the_configuration_follows_the_published_schema(file, tmp_path):
    config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    version = write_triton_repository(file, tmp_path / "models", max_batch_size=16)
    assert version == tmp_path / "models" / "text" / "1"
    config = text_format.Parse((version.parent / "config.pbtxt").read_text(), config_pb2.ModelConfig())
    assert (config.name, config.platform, config.max_batch_size) == ("text", "onnxruntime_onnx", 16)
    assert [(i.name, list(i.dims), i.data_type) for i in config.input] == [
        ("tokens", [-1], config_pb2.TYPE_INT32),
        ("mask", [3], config_pb2.TYPE_FP32),
    ]
    assert [(o.name, list(o.dims)) for o in config.output] == [("embedding", [5])]
    assert config.HasField("dynamic_batching")


def test_versions_are_numbered_and_the_copy_runs(file, tmp_path):
    first, second = (write_triton_repository(file, tmp_path, "encoder") for _ in range(2))
    assert (first.name, second.name) == ("1", "2")
    rows = (np.array([[1, 2]], "int32"), np.ones((1, 3), "float32"))
    np.testing.assert_array_equal(OnnxEncoder(second / "model.onnx").encode(rows), OnnxEncoder(file).encode(rows))
    (tmp_path / "encoder" / ".draft").mkdir()  # as a killed process leaves it
    with ThreadPoolExecutor(4) as pool:
        more = [*pool.map(lambda _: write_triton_repository(file, tmp_path, "encoder"), range(4))]
    assert sorted(version.name for version in more) == ["3", "4", "5", "6"]
    assert {entry.name for entry in first.parent.iterdir()} == {"config.pbtxt", *"123456"}
    with pytest.raises(ValueError, match=r"`max_batch_size` must be .* Received: max_batch_size=0"):
        write_triton_repository(file, tmp_path, max_batch_size=0)
    for name in (".", "../outside", "a/b"):
        with pytest.raises(ValueError, match=r"`name` must name a folder in the repository\. Received: name="):
            write_triton_repository(file, tmp_path / "models", name)


def test_a_number_for_each_sample_and_names_with_quotes(tmp_path):
    config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    name, tensor = 'a "b\\', helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Unsqueeze", [name, "axes"], ["embedding"])],
        "by hand",
        [tensor(name, TensorProto.FLOAT, ("batch",))],
        [tensor("embedding", TensorProto.FLOAT, ("batch", 1))],
        [numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_atomically(tmp_path / "x.onnx", model.SerializeToString())
    version = write_triton_repository(tmp_path / "x.onnx", tmp_path / "models", name)
    config = text_format.Parse((version.parent / "config.pbtxt").read_text(), config_pb2.ModelConfig())
    assert config.name == config.input[0].name == name
    assert list(config.input[0].dims) == [1]  # Triton refuses an empty shape
    assert config.input[0].HasField("reshape") and not config.input[0].reshape.shape


def write_linear(path, output, dimension):
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "matrix"], [output])],
        "by hand",
        [tensor("x", TensorProto.FLOAT, ("batch", 3))],
        [tensor(output, TensorProto.FLOAT, ("batch", dimension))],
        [numpy_helper.from_array(np.ones((3, dimension), "float32"), "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_atomically(path, model.SerializeToString())


def test_a_file_of_another_tool_that_is_replaced_meanwhile(tmp_path, monkeypatch):
    copy = shutil.copyfile

    def replace_then_copy(*paths):
        write_linear(tmp_path / "x.onnx", "sentence_embedding", 7)
        copy(*paths)

    write_linear(tmp_path / "x.onnx", "vector", 4)
    monkeypatch.setattr(shutil, "copyfile", replace_then_copy)
    version = write_triton_repository(tmp_path / "x.onnx", tmp_path / "models")
    assert OnnxEncoder(version / "model.onnx").dimension == 7
    configuration = (version.parent / "config.pbtxt").read_text()
    assert 'output [ { name: "sentence_embedding" data_type: TYPE_FP32 dims: [ 7 ] } ]' in configuration
    with pytest.raises(ModelFileError, match="a folder, whose pooling"):
        write_triton_repository(tmp_path, tmp_path / "models")
