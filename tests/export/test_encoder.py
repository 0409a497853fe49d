"""OnnxEncoder: the arrays it takes, the providers it admits to, and the errors it gives."""

import copy
import json
import pickle
import threading
import types
import warnings
from importlib import metadata

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from keras_tfcl.export import (
    ExportError,
    InputError,
    ModelFileError,
    NonFiniteError,
    OnnxEncoder,
    ProviderError,
    ProviderWarning,
    export_onnx,
)
from keras_tfcl.export.runtime.providers import choose_providers, startable_providers

layers = keras.layers
MATRIX = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def write(path, nodes, inputs, output=("batch", 4), initializers=(), metadata_text=None, output_type=TensorProto.FLOAT):
    """Write an ONNX file by hand, so that the encoder is tested without the exporter."""
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info("embedding", output_type, output)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata_text is not None:
        helper.set_model_props(model, {"keras_tfcl": metadata_text})
    path.write_bytes(model.SerializeToString())
    return path


def linear(path, input_type=TensorProto.FLOAT, **kwargs):
    """embedding = cast(features) @ MATRIX"""
    nodes = [
        helper.make_node("Cast", ["features"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["numbers", "matrix"], ["embedding"]),
    ]
    matrix = onnx.numpy_helper.from_array(MATRIX, "matrix")
    return write(path, nodes, [("features", input_type, ("batch", 6))], initializers=[matrix], **kwargs)


@pytest.fixture
def encoder(tmp_path):
    return OnnxEncoder(linear(tmp_path / "linear.onnx"))


def rows(n):
    return np.random.default_rng(n).normal(size=(n, 6)).astype("float32")


@pytest.mark.parametrize("n", [1, 5, 256, 257, 600])
@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_encode_in_batches(encoder, n, batch_size):
    embeddings = encoder.encode(rows(n), batch_size=batch_size)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, rows(n) @ MATRIX, atol=1e-5)
    np.testing.assert_array_equal(embeddings, encoder(rows(n), batch_size))


def test_properties(encoder):
    assert encoder.dimension == 4
    assert [str(spec) for spec in encoder.inputs] == ["features: float32 (batch, 6)"]
    assert encoder.metadata == {}
    assert encoder.providers == ("CPUExecutionProvider",)
    assert "features: float32 (batch, 6) -> (4)" in repr(encoder)


@pytest.mark.parametrize("empty", [np.zeros((0, 6), "float32"), np.zeros((0, 6), "int64"), []])
def test_no_rows_give_no_embeddings(encoder, empty):
    embeddings = encoder.encode(empty)
    assert embeddings.shape == (0, 4)
    assert embeddings.dtype == np.float32


GOOD_CASTS = [
    ("float64", TensorProto.FLOAT), ("float16", TensorProto.FLOAT), ("uint8", TensorProto.FLOAT),
    ("bool", TensorProto.FLOAT), ("int64", TensorProto.FLOAT), ("int64", TensorProto.INT32),
    ("int64", TensorProto.UINT8), ("bool", TensorProto.INT32), ("float32", TensorProto.DOUBLE),
]  # fmt: skip


@pytest.mark.parametrize(("have", "want"), GOOD_CASTS)
def test_casts_that_lose_nothing(tmp_path, have, want):
    encoder = OnnxEncoder(linear(tmp_path / "linear.onnx", want))
    x = np.random.default_rng(3).integers(0, 2, (3, 6)).astype(have)
    np.testing.assert_allclose(encoder.encode(x), x.astype("float64") @ MATRIX, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(x.T.copy().T), x.astype("float64") @ MATRIX, atol=1e-5)


BAD_VALUES = {
    "float to integer": (np.ones((2, 6)), TensorProto.INT32, "astype"),
    "integer to bool": (np.ones((2, 6), "int32"), TensorProto.BOOL, "astype"),
    "text": (np.full((2, 6), "a"), TensorProto.FLOAT, "takes numbers.*Received: text"),
    "text in objects": ([["a"] * 6], TensorProto.INT32, "the tokenizer that the model was trained with"),
    "a scalar": (np.float32(1), TensorProto.FLOAT, "shape"),
    "objects": (np.full((2, 6), None), TensorProto.FLOAT, "Received: NoneType objects"),
    "complex": (np.ones((2, 6), complex), TensorProto.FLOAT, "complex128"),
    "negative to unsigned": (np.full((2, 6), -1), TensorProto.UINT8, "-1 to -1"),
    "negative to unsigned of one size": (np.full((2, 6), -1, "int32"), TensorProto.UINT32, "-1 to -1"),
    "too large an id": (np.full((2, 6), 2**31), TensorProto.INT32, "2147483648"),
    "too large for exact float": (np.full((2, 6), 2**24 + 1), TensorProto.FLOAT, "16777217"),
    "overflow of float": (np.full((2, 6), 1e300), TensorProto.FLOAT, "row 0"),
    "nan": (np.array([[0.0] * 6, [0, 0, np.nan, 0, 0, 0]]), TensorProto.FLOAT, "row 1"),
    "inf": (np.array([[0.0] * 6, [0, -np.inf, 0, 0, 0, 0]], "float32"), TensorProto.FLOAT, "row 1"),
    "rank": (np.ones(6, "float32"), TensorProto.FLOAT, r"x\[None\]"),
    "shape": (np.ones((2, 7), "float32"), TensorProto.FLOAT, r"\(batch, 6\).*\(2, 7\)"),
    "ragged": ([[1.0], [1.0, 2.0]], TensorProto.FLOAT, "Pad or resize"),
    "other name": ({"image": np.ones((2, 6))}, TensorProto.FLOAT, "features"),
}


@pytest.mark.parametrize(("x", "kind", "text"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_inputs_that_do_not_fit(tmp_path, x, kind, text):
    encoder = OnnxEncoder(linear(tmp_path / "linear.onnx", kind))
    with pytest.raises(InputError, match=text) as caught:
        encoder.encode(x)
    assert isinstance(caught.value, ValueError)


def test_row_of_a_bad_value_counts_from_the_start(encoder):
    x = rows(30)
    x[23, 2] = np.nan
    with pytest.raises(InputError, match="row 23"):
        encoder.encode(x, batch_size=10)


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "8"])
def test_numbers_must_be_positive_integers(encoder, tmp_path, bad):
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        encoder.encode(rows(2), batch_size=bad)
    with pytest.raises(ValueError, match="`threads` must be an integer of at least 1"):
        OnnxEncoder(tmp_path / "linear.onnx", threads=bad)


def test_threads_of_a_run(tmp_path):
    encoder = OnnxEncoder(linear(tmp_path / "linear.onnx"), threads=1)
    np.testing.assert_allclose(encoder.encode(rows(3)), rows(3) @ MATRIX, atol=1e-5)


def two_inputs(path):
    nodes = [helper.make_node("Sub", ["left", "right"], ["embedding"])]
    return write(path, nodes, [(name, TensorProto.FLOAT, ("batch", 4)) for name in ("left", "right")])


def test_several_inputs_by_order_and_by_name(tmp_path):
    encoder = OnnxEncoder(two_inputs(tmp_path / "two.onnx"))
    left, right = rows(5)[:, :4], rows(5)[:, 2:]
    for x in ((left, right), [left, right], {"right": right, "left": left}):
        np.testing.assert_array_equal(encoder.encode(x, batch_size=2), left - right)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.ones((2, 4)), "ndarray"),
        ((np.ones((2, 4)),), "1 of them"),
        ({"left": np.ones((2, 4))}, r"\['left', 'right'\]"),
        ((np.ones((2, 4)), np.ones((3, 4))), "'left': 2, 'right': 3"),
    ],
)
def test_several_inputs_that_do_not_fit(tmp_path, x, text):
    with pytest.raises(InputError, match=text):
        OnnxEncoder(two_inputs(tmp_path / "two.onnx")).encode(x)


def test_infinite_embeddings_are_not_returned(tmp_path):
    nodes = [helper.make_node("Reciprocal", ["features"], ["embedding"])]
    encoder = OnnxEncoder(write(tmp_path / "reciprocal.onnx", nodes, [("features", TensorProto.FLOAT, ("batch", 4))]))
    with pytest.raises(NonFiniteError, match="row 3"):
        encoder.encode(np.array([[1, 1, 1, 1]] * 3 + [[1, 0, 1, 1]]), batch_size=2)


@pytest.mark.parametrize(
    ("kind", "large"), [(TensorProto.FLOAT, 3e38), (TensorProto.DOUBLE, 3e38), (TensorProto.FLOAT16, 6e4)]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_large_numbers_are_finite(tmp_path, kind, large, bad):
    """Those whose squares and sums are beyond the type, beside one that is infinite or no number."""
    nodes = [helper.make_node("Identity", ["features"], ["embedding"])]
    path = write(tmp_path / "x.onnx", nodes, [("features", kind, ("batch", 4))], output_type=kind)
    x = np.full((5, 4), large, np.float32) * np.array([1, -1, 1, 1], np.float32)
    np.testing.assert_allclose(OnnxEncoder(path).encode(x), x, rtol=1e-3)
    x[3, 2] = bad
    with pytest.raises(InputError, match="NaN or infinity in row 3"):
        OnnxEncoder(path).encode(x)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_embeddings_are_float32_whatever_the_file_gives(tmp_path, kind):
    nodes = [helper.make_node("Identity", ["features"], ["embedding"])]
    path = write(tmp_path / "x.onnx", nodes, [("features", kind, ("batch", 4))], output_type=kind)
    encoder = OnnxEncoder(path)
    x = np.ones((3, 4))
    for embeddings in (encoder.encode(x), next(encoder.encode_iter(iter(x)))):
        assert embeddings.dtype == np.float32
        np.testing.assert_array_equal(embeddings, x)
    if kind == TensorProto.DOUBLE:
        with pytest.raises(NonFiniteError, match="row 2"):
            encoder.encode(x * [[1], [1], [1e39]])


def tokens(path):
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["vectors"]),
        helper.make_node("ReduceMean", ["vectors"], ["embedding"], axes=[1], keepdims=0),
    ]
    table = onnx.numpy_helper.from_array(MATRIX, "table")
    return write(path, nodes, [("tokens", TensorProto.INT64, ("batch", "length"))], initializers=[table])


TEXTS = {
    "one": "a text",
    "a list": ["a text", "another"],
    "a tuple": ("a text",),
    "lists of words": [["a", "text"], ["two", "words"]],
    "an array": np.array(["a text"]),
    "objects": np.array(["a text", "another"], object),
    "an iterator": iter(["a text"]),
    "bytes": [b"a text"],
    "bytes in objects": np.array([b"a text"], object),
}


@pytest.mark.parametrize("x", TEXTS.values(), ids=TEXTS)
def test_text_for_an_encoder_of_tokens(tmp_path, x):
    with pytest.raises(InputError, match="token") as caught:
        list(OnnxEncoder(tokens(tmp_path / "tokens.onnx")).encode_iter(x))
    assert "tokens: int64" in str(caught.value) or "int64 (batch, any)" in str(caught.value)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
def test_a_copy_has_the_same_arguments(tmp_path, monkeypatch, copied):
    linear(tmp_path / "linear.onnx")
    monkeypatch.chdir(tmp_path)
    given = {"batch_size": 3, "threads": 1, "buckets": True, "low_memory": True, "spinning": False}
    encoder = OnnxEncoder("linear.onnx", ("cpu",), **given)
    monkeypatch.chdir("/")  # as a worker in another folder would be
    other = copied(encoder)
    expected = (tmp_path / "linear.onnx", ("cpu",), False, 3, 1, True, True, None, None, False)
    assert other._arguments == encoder._arguments == expected
    assert other._session is not encoder._session
    np.testing.assert_array_equal(other.encode(rows(7)), encoder.encode(rows(7)))


def test_a_copy_needs_the_file(tmp_path):
    encoder = OnnxEncoder(linear(tmp_path / "linear.onnx"))
    pickled = pickle.dumps(encoder)
    (tmp_path / "linear.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"linear\.onnx"):
        pickle.loads(pickled)


def test_index_out_of_range_is_an_input_error_without_noise(tmp_path, capfd):
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["vectors"]),
        helper.make_node("ReduceMean", ["vectors"], ["embedding"], axes=[1], keepdims=0),
    ]
    table = onnx.numpy_helper.from_array(MATRIX, "table")
    inputs = [("tokens", TensorProto.INT32, ("batch", "length"))]
    encoder = OnnxEncoder(write(tmp_path / "tokens.onnx", nodes, inputs, initializers=[table]))
    np.testing.assert_allclose(encoder.encode([[1, 3]]), MATRIX[[1, 3]].mean(0, keepdims=True), atol=1e-6)
    with pytest.raises(InputError, match="index ranges"):
        encoder.encode([[1, 6]])
    assert capfd.readouterr().err == ""


def test_threads_share_one_encoder(encoder):
    x = rows(500)
    expected = encoder.encode(x)
    results = [None] * 8

    def work(i):
        results[i] = encoder.encode(x, batch_size=3 + i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for embeddings in results:
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)


class TestProviders:
    @pytest.mark.parametrize("name", ["cpu", "CPU", "CPUExecutionProvider", ["cpu"], "auto"])
    def test_cpu_is_what_was_asked_for(self, tmp_path, name):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoder = OnnxEncoder(linear(tmp_path / "linear.onnx"), providers=name, strict_providers=True)
        assert encoder.providers == ("CPUExecutionProvider",)

    @pytest.mark.parametrize("names", [["cuda", "cpu"], ["cpu", "cuda"]])
    def test_the_order_is_that_of_the_caller(self, names):
        """A build for CUDA, pretended."""
        full = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
        ort = types.SimpleNamespace(
            get_available_providers=lambda: list(full.values()), get_all_providers=lambda: list(full.values())
        )
        assert startable_providers(ort, choose_providers(ort, names)) == [full[name] for name in names]
        assert startable_providers(ort, choose_providers(ort, "cuda")) == [full["cuda"], full["cpu"]]

    @pytest.mark.parametrize("name", ["cuda", ["CUDAExecutionProvider", "cpu"], ("tensorrt", "cuda")])
    def test_cuda_without_a_gpu_warns_or_raises(self, tmp_path, name):
        path = linear(tmp_path / "linear.onnx")
        with pytest.warns(ProviderWarning, match=r"CUDAExecutionProvider.*Received: \['CPUExecutionProvider'\]"):
            encoder = OnnxEncoder(path, providers=name)
        assert encoder.providers == ("CPUExecutionProvider",)
        np.testing.assert_allclose(encoder.encode(rows(2)), rows(2) @ MATRIX, atol=1e-5)
        with pytest.raises(ProviderError, match="serve-gpu"):
            OnnxEncoder(path, providers=name, strict_providers=True)

    @pytest.mark.parametrize("name", ["cudo", ["cpu", "gpu"], [], [None]])
    def test_unknown_names_raise(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"Known names: .*cpu, cuda"):
            OnnxEncoder(linear(tmp_path / "linear.onnx"), providers=name)

    def test_the_list_of_the_build_is_not_believed(self, tmp_path, monkeypatch):
        """The GPU wheel without a GPU: CUDA is listed as available, and the session runs on the CPU."""
        original = onnxruntime.InferenceSession

        def session(path, options, providers):
            assert providers == ["CUDAExecutionProvider", "CPUExecutionProvider"]
            return original(path, options, providers=["CPUExecutionProvider"])

        listed = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublasLt"))
        path = linear(tmp_path / "linear.onnx")
        with pytest.warns(ProviderWarning, match="not used: CUDAExecutionProvider"):
            OnnxEncoder(path)
        with pytest.raises(ProviderError):
            OnnxEncoder(path, strict_providers=True)

    def test_two_wheels_are_detected(self, tmp_path, monkeypatch):
        original = metadata.version
        monkeypatch.setattr(metadata, "version", lambda name: "1.31" if "onnxruntime" in name else original(name))
        with pytest.warns(ProviderWarning, match="pip uninstall -y onnxruntime"):
            OnnxEncoder(linear(tmp_path / "linear.onnx"))

    def test_a_broken_onnxruntime_says_how_to_repair_it(self, tmp_path, monkeypatch):
        monkeypatch.delattr(onnxruntime, "InferenceSession")
        with pytest.raises(ImportError, match="pip uninstall -y onnxruntime"):
            OnnxEncoder(linear(tmp_path / "linear.onnx"))


def test_missing_onnxruntime_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'pip install "keras-tfcl\[serve\]"'):
        OnnxEncoder(linear(tmp_path / "linear.onnx"))


BAD_METADATA = {
    "not json": ("{", "must be JSON"),
    "a list": ("[]", "integer `schema`"),
    "no schema": ("{}", "schema=None"),
    "newer schema": (json.dumps({"schema": 99}), "Upgrade"),
    "other dimension": (json.dumps({"schema": 1, "dimension": 5}), "dimension 5"),
    "deep": ("[" * 100_000, "must be JSON"),
}


@pytest.mark.parametrize(("text", "message"), BAD_METADATA.values(), ids=BAD_METADATA)
def test_wrong_metadata(tmp_path, text, message):
    with pytest.raises(ModelFileError, match=message):
        OnnxEncoder(linear(tmp_path / "linear.onnx", metadata_text=text))


NOT_ENCODERS = {
    "rank 1 output": dict(output=("batch",), match="one output"),
    "free dimension": dict(output=("batch", "d"), match="one output"),
    "huge dimension": dict(output=("batch", 10**9), match="Do not trust"),
}


@pytest.mark.parametrize("case", NOT_ENCODERS.values(), ids=NOT_ENCODERS)
def test_files_that_are_no_encoders(tmp_path, case):
    nodes = [helper.make_node("Identity", ["features"], ["embedding"])]
    path = write(tmp_path / "other.onnx", nodes, [("features", TensorProto.FLOAT, case["output"])], case["output"])
    with pytest.raises(ModelFileError, match=case["match"]):
        OnnxEncoder(path)


def test_text_inputs_are_no_encoder(tmp_path):
    nodes = [
        helper.make_node("StringNormalizer", ["words"], ["other"]),
        helper.make_node("Cast", ["other"], ["embedding"], to=1),
    ]
    path = write(tmp_path / "text.onnx", nodes, [("words", TensorProto.STRING, ("batch", 4))])
    with pytest.raises(ModelFileError):
        OnnxEncoder(path)


def test_errors_are_one_family_and_can_be_pickled():
    for error in (InputError, ModelFileError, NonFiniteError, ProviderError):
        assert issubclass(error, ExportError)
        assert str(pickle.loads(pickle.dumps(error("text")))) == "text"


def test_equals_the_keras_model_it_came_from(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 3), dtype="uint8"), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(4)]
    )
    report = export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    x = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3))
    embeddings = OnnxEncoder(report.path).encode(x)
    np.testing.assert_allclose(embeddings, model.predict(x.astype("uint8"), verbose=0), atol=1e-5)
