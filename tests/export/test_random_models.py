"""Models of random layers and shapes: the file gives the embeddings of the model, on inputs the export never saw.

Strategies draw functions that build layers, since Keras draws random seeds while it builds.
"""

import os
import tempfile
from datetime import date

import keras
import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from keras_tfcl.export import export_onnx

layers, ops = keras.layers, keras.ops
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Function(layers.Layer):
    """Applies a function of `keras.ops`."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


ACTIVATIONS = ["relu", "gelu", "celu", "selu", "softplus", "tanh", "hard_silu", "mish", "leaky_relu"]


@st.composite
def image_layer(draw):
    size = draw(st.integers(3, 20)), draw(st.integers(3, 20))
    activation, padding = draw(st.sampled_from(ACTIVATIONS)), draw(st.sampled_from(["same", "valid"]))
    return draw(
        st.sampled_from(
            [
                lambda: layers.Resizing(*size, interpolation="nearest"),
                lambda: layers.Resizing(*size, crop_to_aspect_ratio=True),
                lambda: layers.Resizing(*size, pad_to_aspect_ratio=True),
                lambda: layers.CenterCrop(*size),
                lambda: layers.ZeroPadding2D(1),
                lambda: layers.Conv2D(4, 3, padding="same", strides=2, activation=activation),
                lambda: layers.Conv2D(4, 2, padding="same", dilation_rate=2),
                lambda: layers.DepthwiseConv2D(3, padding="same"),
                lambda: layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
                lambda: layers.MaxPooling2D(2, padding="same"),
                lambda: layers.AveragePooling2D(2, strides=1, padding=padding),
                lambda: layers.UpSampling2D(2, interpolation="nearest"),
                lambda: layers.BatchNormalization(moving_mean_initializer="ones"),
                lambda: layers.LayerNormalization(),
                lambda: layers.GroupNormalization(1),
                lambda: layers.SpatialDropout2D(0.5),
                lambda: layers.RandomFlip(),
                lambda: layers.Activation(activation),
            ]
        )
    )


@st.composite
def image_model(draw):
    sizes = (None, None) if draw(st.booleans()) else (draw(st.integers(5, 24)), draw(st.integers(5, 24)))
    channels, dtype = draw(st.sampled_from([1, 3])), draw(st.sampled_from(["float32", "uint8"]))
    pool = draw(st.sampled_from([layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D]))
    stack = draw(st.lists(image_layer(), min_size=1, max_size=4))

    def build():
        image = keras.Input((*sizes, channels), dtype=dtype)
        x = layers.Rescaling(1 / 127.5, offset=-1)(image)
        for make_layer in stack:
            x = make_layer()(x)
        return keras.Model(image, layers.Dense(5, bias_initializer="ones")(pool()(x)))

    return build


@st.composite
def sequence_layer(draw):
    activation, backwards = draw(st.sampled_from(ACTIVATIONS)), draw(st.booleans())
    return draw(
        st.sampled_from(
            [
                lambda: layers.LSTM(6, return_sequences=True),
                lambda: layers.GRU(6, return_sequences=True, go_backwards=backwards),
                lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
                lambda: layers.Conv1D(6, 3, padding="causal", activation=activation),
                lambda: layers.TimeDistributed(layers.Dense(6, activation=activation)),
                lambda: layers.LayerNormalization(),
                lambda: layers.MaxPooling1D(2, padding="same"),
                lambda: Function(lambda x: ops.cumsum(x, axis=1) / 10),
                lambda: Function(lambda x: ops.where(x > 0, ops.log1p(ops.abs(x)), ops.expm1(x))),
                lambda: Function(lambda x: x + ops.one_hot(ops.argmax(x, axis=-1), x.shape[-1])),
            ]
        )
    )


@st.composite
def sequence_model(draw):
    length, dtype = draw(st.sampled_from([None, None, 1, 5, 12])), draw(st.sampled_from(["int32", "int64"]))
    masked, stack = draw(st.booleans()), draw(st.lists(sequence_layer(), max_size=3))

    def build():
        tokens = keras.Input((length,), dtype=dtype)
        x = layers.Embedding(30, 6, mask_zero=masked)(tokens)
        for make_layer in stack:
            x = make_layer()(x)
        return keras.Model(tokens, layers.Dense(5, bias_initializer="ones")(layers.GlobalMaxPooling1D()(x)))

    return build


@st.composite
def integer_model(draw):
    length, dtype = draw(st.integers(1, 6)), draw(st.sampled_from(["int32", "int64"]))
    divisor, one_hot = draw(st.integers(-12, 12).filter(bool)), draw(st.booleans())
    functions = [
        lambda v: v % divisor,
        lambda v: v // divisor,
        lambda v: ops.where(v % 3 == 0, v, -v),
        lambda v: ops.clip(v, -40, 40),
        lambda v: ops.maximum(v, divisor),
        lambda v: ops.abs(v) + ops.sign(v),
        lambda v: v - divisor,
    ]
    stack = draw(st.lists(st.sampled_from(functions), min_size=1, max_size=4))

    def build():
        x = numbers = keras.Input((length,), dtype=dtype)
        for function in stack:
            x = Function(function)(x)
        if one_hot:
            x = Function(lambda v: ops.sum(ops.one_hot(v, 9), axis=1))(x)
        x = Function(lambda v: ops.tanh(ops.cast(v, "float32") / 50))(x)
        return keras.Model(numbers, layers.Dense(5, bias_initializer="ones")(x))

    return build


def fresh_inputs(model, rows):
    """Inputs of one to three rows, at three sizes where sizes are free."""
    spec = model.inputs[0]
    vocabulary = [layer.input_dim for layer in model.layers if isinstance(layer, layers.Embedding)]
    for _ in range(3):
        shape = (
            int(rows.integers(1, 4)),
            *(int(rows.integers(1, 45)) if dim is None else dim for dim in spec.shape[1:]),
        )
        if vocabulary:
            low, high = 0, vocabulary[0]
        else:
            low, high = (0, 256) if len(shape) == 4 else (-3000, 3000)
        yield rows.integers(low, high, shape).astype(spec.dtype)


def compare(build, start):
    keras.utils.set_random_seed(start)
    model = build()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "encoder.onnx")
        try:
            export_onnx(model, path, normalize=False)
        except Exception as error:
            configs = [(type(layer).__name__, layer.get_config()) for layer in model.layers]
            error.add_note(f"The model, with seed {start}: {configs}")
            raise
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in fresh_inputs(model, np.random.default_rng(start)):
        expected = np.asarray(model(x, training=False), "float64")
        (received,) = session.run(None, {session.get_inputs()[0].name: x})
        kept = np.isfinite(expected).all(axis=1)
        np.testing.assert_allclose(received[kept], expected[kept], rtol=1e-3, atol=1e-4, err_msg=f"{x.shape} {x.dtype}")


def check_random_models(count, number):
    """Without shrinking, which would export hundreds of models; the note of the error says which model it was."""
    models = st.one_of(integer_model(), sequence_model(), image_model())
    check = given(models, st.integers(0, 1000))(compare)
    quiet = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
    seed(number)(settings(max_examples=count, phases=[Phase.generate], **quiet)(check))()


def test_file_equals_model():
    check_random_models(5, number=0)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(15))
def test_file_equals_model_many_times(part):
    """In parts, so that a sample of the slow tests can hold some of them; other models on each day."""
    check_random_models(20, number=1 + part + 15 * date.today().toordinal())
