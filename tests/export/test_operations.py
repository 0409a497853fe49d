"""Operations that ONNX or tf2onnx define otherwise than Keras, or lack: the file gives what NumPy gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from helpers.onnx_files import run
from keras_tfcl.export import InputError, OnnxEncoder, ParityError, UnsupportedOpError, VerificationError, export_onnx
from keras_tfcl.export.keras_to_onnx import convert as converter

layers, ops = keras.layers, keras.ops


class Function(layers.Layer):
    """Applies a function of `keras.ops` and makes one float vector a row of it."""

    def __init__(self, function, width, **kwargs):
        super().__init__(**kwargs)
        self.function, self.width = function, width

    def call(self, x):
        return ops.reshape(ops.cast(self.function(x), "float32"), (-1, self.width))


def function_model(function, width, dtype):
    x = keras.Input((width,), dtype=dtype)
    one_row = function(ops.ones((1, width), dtype))
    return keras.Model(x, Function(function, int(np.prod(one_row.shape)), name="culprit")(x))


INTEGERS = np.array([[-29, -7, -1, 0], [5, 12, 7, -14], [-40_003, 39_999, 40, 8], [-10, 10, 100, -100]])
INTEGER_FUNCTIONS = {
    "remainder": (lambda v: v % 9, lambda v: np.mod(v, 9)),
    "remainder of a negative divisor": (lambda v: v % -9, lambda v: np.mod(v, -9)),
    "quotient": (lambda v: v // 7, lambda v: np.floor_divide(v, 7)),
    "quotient of a negative divisor": (lambda v: v // -7, lambda v: np.floor_divide(v, -7)),
    "quotient of two inputs": (lambda v: v // (v[:, ::-1] ** 2 + 3), lambda v: v // (v[:, ::-1] ** 2 + 3)),
    "remainder as in C": (lambda v: tf.truncatemod(v, 6), lambda v: np.fmod(v, 6)),
    "one-hot vectors": (lambda v: ops.one_hot(v, 6), lambda v: v[..., None] == np.arange(6)),
    "one-hot vectors on axis 1": (lambda v: ops.one_hot(v, 6, axis=1), lambda v: v[:, None] == np.arange(6)[:, None]),
    "one-hot vectors of bool": (lambda v: ops.one_hot(v, 6, dtype="bool"), lambda v: v[..., None] == np.arange(6)),
    "one-hot vectors of other values": (
        lambda v: tf.one_hot(v, 6, on_value=3, off_value=-2),
        lambda v: np.where(v[..., None] == np.arange(6), 3, -2),
    ),
}


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(("function", "reference"), INTEGER_FUNCTIONS.values(), ids=INTEGER_FUNCTIONS)
def test_integers(function, reference, dtype, tmp_path):
    x = INTEGERS.astype(dtype)
    export_onnx(function_model(function, 4, dtype), tmp_path / "encoder.onnx", normalize=False)
    expected = reference(x.astype("int64")).reshape(4, -1)
    np.testing.assert_array_equal(run(tmp_path / "encoder.onnx", x), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_small_integers(dtype, tmp_path):
    model = function_model(lambda v: ops.concatenate([v // 3, v % 5], axis=1), 4, dtype)
    x = np.clip([[0, 1, 100, 127], [-128, -3, -2, -7], [250, 255, 9, 4]], *(np.iinfo(dtype).min, np.iinfo(dtype).max))
    export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    expected = np.concatenate([x // 3, x % 5], axis=1)
    np.testing.assert_array_equal(run(tmp_path / "encoder.onnx", x.astype(dtype)), expected)


def test_a_zero_divisor_does_not_end_the_process(tmp_path):
    """Integer division by zero is a signal in C, which no `except` would see."""
    model = function_model(lambda v: 12 // v + 12 % v, 3, "int32")
    samples = np.array([[1, 5, -5], [7, -12, 30]], "int32")
    export_onnx(model, tmp_path / "encoder.onnx", normalize=False, samples=samples)
    np.testing.assert_array_equal(run(tmp_path / "encoder.onnx", samples), 12 // samples + 12 % samples)
    assert run(tmp_path / "encoder.onnx", np.zeros((1, 3), "int32")).shape == (1, 3)


FLOATS = np.array(
    [[-2.3, -0.4, 0.31, 1.9], [1e-6, -1e-6, 3e-4, 0.0], [0.0, -0.0, 0.0, 0.0], [-0.0, 0.0, -3.0, -3.0]], "float32"
)
FLOAT_FUNCTIONS = {
    "remainder": (lambda x: x % 0.75, lambda x: np.mod(x, 0.75)),
    "remainder of a negative divisor": (lambda x: x % -0.75, lambda x: np.mod(x, -0.75)),
    "quotient": (lambda x: (x + 0.1) // 0.75, lambda x: np.floor_divide(x + 0.1, 0.75)),
    "log1p": (lambda x: ops.log1p(ops.abs(x)), lambda x: np.log1p(np.abs(x))),
    "expm1": (ops.expm1, np.expm1),
    "celu": (lambda x: ops.celu(x, 0.7), lambda x: np.where(x > 0, x, 0.7 * np.expm1(x / 0.7))),
    "argmax": (lambda x: ops.argmax(x, axis=-1), lambda x: [3, 2, 0, 1]),  # Keras: -0.0 is below 0.0
    "argmin": (lambda x: ops.argmin(x, axis=-1), lambda x: [0, 1, 1, 2]),
    "sign bit": (ops.signbit, np.signbit),
    "cumprod": (lambda x: ops.cumprod(x + 1, axis=1), lambda x: np.cumprod(x + 1, axis=1)),
    "cumprod before, from the end": (
        lambda x: tf.math.cumprod(x + 2, axis=1, exclusive=True, reverse=True),
        lambda x: np.stack([np.prod(x[:, i + 1 :] + 2, axis=1) for i in range(4)], axis=1),
    ),
    "a choice beside 0 / 0": (
        lambda x: ops.where(x == 0, ops.ones_like(x), ops.sin(x) / x),
        lambda x: np.sinc(x / np.pi),
    ),
    "xlogy": (lambda x: tf.math.xlogy(x, ops.abs(x)), lambda x: np.where(x == 0, 0, x * np.log(np.abs(x) + (x == 0)))),
}


@pytest.mark.parametrize(("function", "reference"), FLOAT_FUNCTIONS.values(), ids=FLOAT_FUNCTIONS)
def test_floats(function, reference, tmp_path):
    export_onnx(function_model(function, 4, "float32"), tmp_path / "encoder.onnx", normalize=False)
    expected = np.asarray(reference(FLOATS.astype("float64")), "float64").reshape(4, -1)
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", FLOATS), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("opset", [13, 18])
def test_other_opsets(opset, tmp_path):
    def both(x):
        return ops.concatenate([ops.cumprod(x, axis=1), ops.log1p(ops.abs(x)), ops.one_hot(ops.argmax(x, -1), 4)], 1)

    export_onnx(function_model(both, 4, "float32"), tmp_path / "encoder.onnx", normalize=False, opset=opset)
    expected = np.concatenate(
        [np.cumprod(FLOATS, 1), np.log1p(np.abs(FLOATS)), np.eye(4)[[3, 2, 0, 1]]], axis=1, dtype="float64"
    )
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", FLOATS), expected, rtol=1e-5, atol=1e-12)


def test_an_operation_of_a_later_opset(tmp_path):
    model = function_model(lambda v: ops.bitwise_and(v, 6), 4, "int32")
    with pytest.raises(UnsupportedOpError, match=r"BitwiseAnd in layer `culprit` \(Function\).*higher `opset`"):
        export_onnx(model, tmp_path / "encoder.onnx")
    export_onnx(model, tmp_path / "encoder.onnx", normalize=False, opset=18)
    np.testing.assert_array_equal(run(tmp_path / "encoder.onnx", INTEGERS.astype("int32")), INTEGERS & 6)


LOOKUPS = {  # a layer that looks up ids in a table of 5 rows, and the smallest id that Keras accepts
    "Embedding": (lambda table: layers.Embedding(5, 3, weights=[table]), -5),
    "take": (lambda table: Function(lambda ids: ops.take(ops.convert_to_tensor(table), ids, axis=0), 6), -5),
    "take from axis 1": (
        lambda table: Function(lambda ids: ops.moveaxis(ops.take(ops.transpose(table), ids, axis=1), 0, -1), 6),
        -5,
    ),
    "gather": (lambda table: Function(lambda ids: tf.gather(table, ids), 6), 0),
}


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(("look_up", "lowest"), LOOKUPS.values(), ids=LOOKUPS)
def test_ids_outside_a_table_are_refused_as_keras_refuses_them(look_up, lowest, dtype, tmp_path):
    """ONNX counts negative ids from the end, TensorFlow refuses them, and Keras counts before it asks TensorFlow."""
    table = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    ids = keras.Input((2,), dtype=dtype)
    rows = layers.Flatten()(look_up(table)(ids))
    model = keras.Model(ids, rows)
    export_onnx(model, tmp_path / "x.onnx", normalize=False)
    encoder = OnnxEncoder(tmp_path / "x.onnx")
    for number in range(-12, 8):
        x = np.array([[number, 1]], dtype)
        if lowest <= number < 5:
            np.testing.assert_array_equal(encoder.encode(x), model(x))
            np.testing.assert_array_equal(np.sort(encoder.encode(x)[0]), np.sort(table[[number, 1]].ravel()))
        else:
            with pytest.raises(tf.errors.InvalidArgumentError):
                model(x)
            with pytest.raises(InputError, match="bounds"):
                encoder.encode(x)


def test_ids_that_are_wrapped_around_are_kept(tmp_path):
    """`where(ids >= N, ids - N, ids)` looks like the count from the end in `ops.take`, and is not."""
    table = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")

    def look_up(ids):
        return tf.reshape(tf.gather(table, tf.where(ids >= 5, ids - 5, ids)), (-1, 12))

    x = np.array([[0, 5, 9, 4], [6, 7, 1, 2]], "int32")
    export_onnx(function_model(look_up, 4, "int32"), tmp_path / "x.onnx", normalize=False, samples=x)
    np.testing.assert_array_equal(run(tmp_path / "x.onnx", x), table[x % 5].reshape(2, 12))


def test_a_model_that_differs_between_an_eager_call_and_a_graph(tmp_path):
    def by_mode(x):
        return x * (1.0 if tf.executing_eagerly() else 2.0) + 1.0

    with pytest.raises(ParityError, match=r"Look at a layer whose output in a graph"):
        export_onnx(function_model(by_mode, 4, "float32"), tmp_path / "encoder.onnx")


WITHOUT = {
    "FloorMod": ("int32", lambda v: v % 7, ParityError),
    "FloorDiv": ("int32", lambda v: v // 6, ParityError),
    "OneHot": ("int32", lambda v: ops.sum(ops.one_hot(v, 8), axis=1), ParityError),
    "SelectV2": ("float32", lambda x: ops.where(x == 0, ops.ones_like(x), ops.sin(x) / x), VerificationError),
}


@pytest.mark.parametrize("operation", WITHOUT)
def test_edge_inputs_find_what_a_converter_gets_wrong(operation, monkeypatch, tmp_path):
    """With tf2onnx's own handler the file is wrong, which the error says, with the operation and its layer."""
    handlers = converter.custom_op_handlers()
    handlers.pop(operation)
    monkeypatch.setattr(converter, "custom_op_handlers", lambda: handlers)
    dtype, function, error = WITHOUT[operation]
    inner = function_model(function, 4, dtype)
    model = keras.Sequential([inner, layers.Dense(5, bias_initializer="ones")])
    with pytest.raises(error, match=rf"{operation} in layer `culprit` \(Function\)"):
        export_onnx(model, tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [17, 18], ids="axes as an attribute,axes as an input".split(","))
def test_means_of_large_images_are_as_exact_as_in_keras(opset, tmp_path):
    """A group normalization of equal pixels shows the error of their mean 30-fold; onnxruntime alone is off by 2e-3."""
    image = keras.Input((None, None, 2))
    x = layers.GlobalMaxPooling2D()(layers.GroupNormalization(1)(image))
    export_onnx(keras.Model(image, x), tmp_path / "x.onnx", normalize=False, opset=opset)
    np.testing.assert_allclose(run(tmp_path / "x.onnx", np.full((1, 203, 330, 2), 0.57, "float32")), 0, atol=1e-4)


def test_a_size_that_a_rounded_scale_misses(tmp_path):
    """7 pixels times 13 / 7 are 12.9999996 with the scale in float32, which ONNX's inference of shapes rounds down."""
    image = keras.Input((None, None, 1))
    x = layers.Resizing(7, 17, interpolation="nearest")(image)
    x = layers.Resizing(13, 18, crop_to_aspect_ratio=True)(x)
    x = layers.Resizing(10, 13, pad_to_aspect_ratio=True)(x)
    model = keras.Model(image, layers.Flatten()(x))
    export_onnx(model, tmp_path / "x.onnx", normalize=False)
    batch = np.random.default_rng(0).uniform(0, 1, (2, 40, 23, 1)).astype("float32")
    np.testing.assert_allclose(run(tmp_path / "x.onnx", batch), model(batch), atol=1e-5)


CONVOLUTIONS = {
    "transposed, free, stride above kernel": ((None, None, 3), lambda: layers.Conv2DTranspose(4, 2, 3, "same")),
    "transposed, stride above kernel": ((5, 6, 3), lambda: layers.Conv2DTranspose(4, 2, 3, "same")),
    "transposed, output_padding": ((5, 6, 3), lambda: layers.Conv2DTranspose(4, 3, 3, output_padding=(2, 1))),
    "transposed in 3 dimensions": ((2, 3, 4, 3), lambda: layers.Conv3DTranspose(4, 1, 2)),
    "groups in 3 dimensions": ((4, 5, 6, 4), lambda: layers.Conv3D(4, 2, groups=2)),
}


@pytest.mark.parametrize(("shape", "layer"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_that_tf2onnx_gets_wrong(shape, layer, tmp_path):
    pool = layers.GlobalMaxPooling2D() if len(shape) == 3 else layers.GlobalMaxPooling3D()
    model = keras.Sequential([keras.Input(shape), layer(), pool])
    model.layers[0].bias.assign([3.0, -3.0, 2.0, 9.0])  # the pixels between those that the kernel reaches are the bias
    report = export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    x = np.random.default_rng(0).normal(size=(3, *(size or 7 for size in shape))).astype("float32")
    np.testing.assert_allclose(run(report.path, x), model.predict(x, verbose=0), rtol=1e-5, atol=1e-5)
