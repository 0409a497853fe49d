"""What cannot be exported is refused by name, leaves no new file and keeps an old one."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfcl.export import (
    BatchInvarianceError,
    ModelInputError,
    ModelOutputError,
    ParityError,
    ParityWarning,
    UnsupportedLayerError,
    UnsupportedOpError,
    VerificationError,
    export_onnx,
)
from keras_tfcl.export import export as exporter

layers = keras.layers


def image_encoder(*front):
    return keras.Sequential([keras.Input((8, 8, 3)), *front, layers.GlobalAveragePooling2D(), layers.Dense(4)])


def vector_encoder(*back):
    return keras.Sequential([keras.Input((6,)), layers.Dense(4), *back])


def lookup_encoder():
    words = keras.Input((4,), dtype="int32")
    ids = layers.IntegerLookup(vocabulary=[1, 2, 3], name="culprit")(words)
    return keras.Model(words, layers.Dense(3)(keras.ops.cast(ids, "float32")))


def resize_area(x):
    return keras.ops.image.resize(x, (5, 5), interpolation="area")


def by_value(x):
    return x * (2.0 if float(x[0, 0]) > 0 else 1.0)


REFUSED = {
    "area": (UnsupportedLayerError, lambda: image_encoder(layers.Resizing(5, 5, "area", name="culprit"))),
    "lanczos3": (UnsupportedLayerError, lambda: image_encoder(layers.Resizing(5, 5, "lanczos3", name="culprit"))),
    "antialias": (UnsupportedLayerError, lambda: image_encoder(layers.Resizing(5, 5, antialias=True, name="culprit"))),
    "inside another layer": (
        UnsupportedLayerError,
        lambda: image_encoder(keras.Sequential([layers.Resizing(5, 5, "area", name="culprit")])),
    ),
    "lookup": (UnsupportedLayerError, lookup_encoder),
    "area in a Lambda": (UnsupportedOpError, lambda: image_encoder(layers.Lambda(resize_area, name="culprit"))),
    "erfinv in a Lambda": (
        UnsupportedOpError,
        lambda: vector_encoder(layers.Lambda(lambda x: keras.ops.erfinv(keras.ops.tanh(x)), name="culprit")),
    ),
    "an operation without a rule": (
        UnsupportedOpError,
        lambda: vector_encoder(layers.Lambda(lambda x: tf.math.special.dawsn(x), name="culprit")),
    ),
    "random in a Lambda": (
        UnsupportedOpError,
        lambda: vector_encoder(layers.Lambda(lambda x: x + keras.random.normal((4,)), name="culprit")),
    ),
    "a branch on a value": (UnsupportedOpError, lambda: vector_encoder(layers.Lambda(by_value, name="culprit"))),
    "a dict of outputs": (
        ModelOutputError,
        lambda: keras.Model(x := keras.Input((3,)), {"culprit": layers.Dense(2)(x)}),
    ),
    "rank 4": (ModelOutputError, lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3)])),
    "batch statistics": (
        BatchInvarianceError,
        lambda: vector_encoder(layers.Lambda(lambda x: x - keras.ops.mean(x, axis=0), name="culprit")),
    ),
    "strings": (
        ModelInputError,
        lambda: keras.Model(x := keras.Input((1,), dtype="string"), layers.StringLookup(vocabulary=["a"])(x)),
    ),
    "unbuilt": (ModelInputError, lambda: keras.Sequential([layers.Dense(3)])),
}


@pytest.mark.parametrize(("error", "build"), REFUSED.values(), ids=REFUSED)
def test_refusal_names_the_layer_and_touches_no_file(error, build, tmp_path):
    old, new = tmp_path / "old.onnx", tmp_path / "new.onnx"
    old.write_bytes(b"what was here before")
    model = build()
    for path in (old, new):
        with pytest.raises(error, match=r"Received: ") as caught:
            export_onnx(model, path)
    assert os.listdir(tmp_path) == ["old.onnx"]
    assert old.read_bytes() == b"what was here before"
    names_a_layer = error in (UnsupportedLayerError, UnsupportedOpError, BatchInvarianceError)
    assert not names_a_layer or "`culprit`" in str(caught.value)


def test_every_faulty_layer_is_named_at_once(tmp_path):
    model = image_encoder(layers.Resizing(6, 6, "area", name="first"), layers.Resizing(5, 5, "lanczos5", name="second"))
    with pytest.raises(UnsupportedLayerError, match=r"`first`.*`second`"):
        export_onnx(model, tmp_path / "encoder.onnx")


def scale_weights(model):
    for tensor in model.graph.initializer:
        if tensor.data_type == 1 and len(tensor.dims) == 2:
            values = np.frombuffer(tensor.raw_data, "float32") * np.linspace(1, 1.01, int(np.prod(tensor.dims)))
            tensor.raw_data = values.astype("float32").tobytes()


def add_input(model):
    extra = model.graph.input.add()
    extra.CopyFrom(model.graph.input[0])
    extra.name = "constant"


def rename_operation(model):
    next(node for node in model.graph.node if node.op_type == "MatMul").op_type = "NoSuchOp"


def rename_output(model):
    last = next(node for node in model.graph.node if "embedding" in node.output)
    last.output[0] = model.graph.output[0].name = "vector"


def break_type(model):
    next(node for node in model.graph.node if node.op_type == "MatMul").input.pop()


TAMPERED = {
    "other weights": (scale_weights, ParityError),
    "undeclared input": (add_input, VerificationError),
    "unknown operation": (rename_operation, UnsupportedOpError),
    "other output name": (rename_output, VerificationError),
    "invalid node": (break_type, VerificationError),
}


@pytest.fixture
def convert_and(monkeypatch):
    """Make the converter hand over a model that `tamper` has changed."""

    def install(tamper):
        original = exporter.convert

        def convert(*args, **kwargs):
            model = original(*args, **kwargs)
            tamper(model)
            return model

        monkeypatch.setattr(exporter, "convert", convert)

    return install


@pytest.mark.parametrize(("tamper", "error"), TAMPERED.values(), ids=TAMPERED)
def test_a_wrong_conversion_is_found(tamper, error, convert_and, tmp_path):
    convert_and(tamper)
    (tmp_path / "encoder.onnx").write_bytes(b"what was here before")
    with pytest.raises(error):
        export_onnx(vector_encoder(), tmp_path / "encoder.onnx")
    assert os.listdir(tmp_path) == ["encoder.onnx"]
    assert (tmp_path / "encoder.onnx").read_bytes() == b"what was here before"


def test_allow_mismatch_is_loud_and_lasts(convert_and, tmp_path):
    from keras_tfcl.export import OnnxEncoder

    convert_and(scale_weights)
    with pytest.warns(ParityWarning, match="min cosine"):
        report = export_onnx(vector_encoder(), tmp_path / "encoder.onnx", allow_mismatch=True)
    assert not report.matches
    assert "DOES NOT MATCH" in str(report)
    with pytest.warns(ParityWarning, match="allow_mismatch=True"):
        encoder = OnnxEncoder(tmp_path / "encoder.onnx")
    assert encoder.metadata["parity"]["passed"] is False


def test_allow_mismatch_covers_parity_alone(convert_and, tmp_path):
    convert_and(add_input)
    with pytest.raises(VerificationError):
        export_onnx(vector_encoder(), tmp_path / "encoder.onnx", allow_mismatch=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("before", [False, True])
def test_eager_switch_is_restored_after_an_error(before, tmp_path):
    tf.config.run_functions_eagerly(before)
    try:
        with pytest.raises(UnsupportedOpError):
            export_onnx(vector_encoder(layers.Lambda(by_value)), tmp_path / "encoder.onnx")
        assert tf.config.functions_run_eagerly() is before
        assert keras.config.is_traceback_filtering_enabled()
    finally:
        tf.config.run_functions_eagerly(False)


def test_an_interrupt_leaves_nothing(monkeypatch, tmp_path):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "check_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(vector_encoder(), tmp_path / "encoder.onnx")
    assert os.listdir(tmp_path) == []


def test_arguments(tmp_path):
    model = vector_encoder()
    with pytest.raises(ValueError, match=r"`opset`.*opset=99"):
        export_onnx(model, tmp_path / "encoder.onnx", opset=99)
    with pytest.raises(FileNotFoundError, match="missing"):
        export_onnx(model, tmp_path / "missing" / "encoder.onnx")
    with pytest.raises(IsADirectoryError, match="folder"):
        export_onnx(model, tmp_path)
    with pytest.raises(ValueError, match="needs a ContrastiveModel"):
        export_onnx(model, tmp_path / "encoder.onnx", projector=True)
    with pytest.raises(TypeError, match=r"keras\.Model"):
        export_onnx(layers.Dense(3), tmp_path / "encoder.onnx")
    assert os.listdir(tmp_path) == []


def test_a_model_that_synthetic_rows_break_needs_samples(tmp_path):
    class PositiveOnly(layers.Layer):
        def call(self, x):
            return keras.ops.log(x)

    model = keras.Sequential([keras.Input((4,)), PositiveOnly(), layers.Dense(3)])
    with pytest.raises(ModelInputError, match="samples"):
        export_onnx(model, tmp_path / "encoder.onnx")
    samples = np.random.default_rng(0).uniform(1, 2, (70, 4)).astype("float32")
    assert export_onnx(model, tmp_path / "encoder.onnx", samples=samples).rows == 1 + 7 + 70
    samples[3, 1] = -1
    with pytest.raises(ModelOutputError, match="samples"):
        export_onnx(model, tmp_path / "encoder.onnx", samples=samples)
