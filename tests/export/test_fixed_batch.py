"""Files that run a fixed number of samples: they match the model on any number, and padding changes nothing."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from keras_tfcl.export import (
    BatchInvarianceError,
    ModelFileError,
    OnnxEncoder,
    QuantizationError,
    check_probes,
    export_onnx,
    quantize,
    verify_onnx,
)
from keras_tfcl.export.runtime.triton import write_triton_repository

RNG = np.random.default_rng(0)
X = RNG.normal(size=(11, 12, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="gelu")(inputs)
    x = keras.layers.Reshape((-1, 8))(x)
    x = keras.layers.MultiHeadAttention(2, 4)(x, x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))


@pytest.fixture(scope="module", params=[1, 4])
def file(request, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("fixed") / "encoder.onnx"
    export_onnx(model, path, batch_size=request.param, samples=X)
    return path


def expected(model, x):
    vectors = model.predict(x, verbose=0).astype("float64")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def batch_of(path):
    return OnnxEncoder(path).inputs[0].shape[0]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 11])
def test_any_number_of_samples(file, model, count):
    encoder = OnnxEncoder(file)
    found = encoder.encode(X[:count])
    assert found.shape == (count, 8)
    if count:
        np.testing.assert_allclose(found, expected(model, X[:count]), atol=1e-5)
        np.testing.assert_array_equal(np.concatenate([*encoder.encode_iter(iter(X[:count]), batch_size=3)]), found)


def test_the_graph_has_the_batch_and_runs_no_other(file):
    batch = batch_of(file)
    graph = onnx.load(file).graph
    for tensor in (*graph.input, *graph.output):
        assert tensor.type.tensor_type.shape.dim[0].dim_value == batch
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": X[:batch]})[0].shape == (batch, 8)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        session.run(None, {"image": X[: batch + 1]})


def test_it_is_verified_and_warmed_up_like_others(file, model):
    assert verify_onnx(file, model, X).passed and check_probes(file).passed
    assert [*OnnxEncoder(file).warmup((1, 64))] == [1, 64]
    assert f"batch of {batch_of(file)}" in str(OnnxEncoder(file))


def test_triton_is_told_the_whole_shape(file, tmp_path):
    batch = batch_of(file)
    config = (write_triton_repository(file, tmp_path).parent / "config.pbtxt").read_text()
    assert "max_batch_size: 0" in config and "dynamic_batching" not in config
    assert f"dims: [ {batch}, 12, 12, 3 ]" in config and f"dims: [ {batch}, 8 ]" in config


def test_opencv_reads_it(tmp_path):
    """OpenCV 4.14 gives other numbers for four samples if the batch is free."""
    cv2 = pytest.importorskip("cv2")
    layers = [keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"), keras.layers.MaxPooling2D()]
    model = keras.Sequential([keras.Input((12, 12, 3)), *layers, keras.layers.GlobalAveragePooling2D()])
    export_onnx(model, tmp_path / "x.onnx", batch_size=4)
    network = cv2.dnn.readNetFromONNX(str(tmp_path / "x.onnx"))
    network.setInput(X[:4])
    np.testing.assert_allclose(network.forward(), expected(model, X[:4]), atol=1e-4)


class Centred(keras.layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x, axis=0)


def test_what_mixes_the_samples_of_a_batch_is_still_found(tmp_path):
    mixing = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), Centred()])
    with pytest.raises(BatchInvarianceError):
        export_onnx(mixing, tmp_path / "x.onnx", batch_size=4, normalize=False, allow_mismatch=True)


def test_two_inputs_and_free_lengths(tmp_path):
    tokens, extra = keras.Input((None,), dtype="int32", name="tokens"), keras.Input((3,), name="extra")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(50, 4)(tokens))
    model = keras.Model([tokens, extra], keras.layers.Dense(5)(keras.layers.Concatenate()([pooled, extra])))
    export_onnx(model, tmp_path / "x.onnx", batch_size=3, normalize=False)
    x = (RNG.integers(0, 50, (7, 9)).astype("int32"), RNG.normal(size=(7, 3)).astype("float32"))
    np.testing.assert_allclose(OnnxEncoder(tmp_path / "x.onnx").encode(x), model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_what_is_no_batch_size(model, tmp_path, size):
    with pytest.raises(ValueError, match=r"`batch_size` must be an integer of at least 1\. Received: batch_size="):
        export_onnx(model, tmp_path / "x.onnx", batch_size=size)


def test_it_is_not_quantized(file, tmp_path):
    with pytest.raises(QuantizationError, match="free batch"):
        quantize(file, tmp_path / "int8.onnx", samples=X)


@pytest.mark.parametrize("batches", [((3, 6), (4, 6)), ((3, 6), ("batch", 6)), (("batch", 6), ("batch", 6), (3, 4))])
def test_batches_that_contradict_each_other(tmp_path, batches):
    helper = onnx.helper
    shapes = dict(zip(("a", "b", "embedding"), batches, strict=False)) | {"embedding": (*batches, ("batch", 4))[2]}
    values = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims) for name, dims in shapes.items()}
    nodes = [helper.make_node("MatMul", ["a", "b"], ["embedding"])]
    graph = helper.make_graph(nodes, "x", [values["a"], values["b"]], [values["embedding"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError):
        OnnxEncoder(tmp_path / "x.onnx")
