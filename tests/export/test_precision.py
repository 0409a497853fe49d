"""A model in half precision is written in float32: the file equals the same weights in a float32 model."""

import keras
import numpy as np
import onnxruntime
import pytest

from keras_tfcl.export import OnnxEncoder, UnsupportedLayerError, export_onnx, verify_onnx

layers = keras.layers


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def encoder():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, activation="gelu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )


class Subclassed(keras.Model):
    """Has no configuration that would rebuild it."""

    def __init__(self, width):
        super().__init__()
        self.inner, self.outer = layers.Dense(width, activation="tanh"), layers.Dense(4)

    def call(self, x):
        return self.outer(self.inner(x))


def run(path, x):
    (embeddings,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        None, {OnnxEncoder(path).inputs[0].name: x}
    )
    assert embeddings.dtype == np.float32
    return embeddings


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_file_equals_the_float32_twin(name, policy, tmp_path):
    policy(name)
    model = encoder()
    policy("float32")
    twin = encoder()
    twin.set_weights([np.asarray(weight, "float32") for weight in model.get_weights()])
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")
    own = model.predict(x, verbose=0).astype("float64")

    report = export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    expected = twin.predict(x, verbose=0)
    np.testing.assert_allclose(run(report.path, x), expected, atol=2e-5 * np.abs(expected).max())
    assert report.policies == (name,)
    assert report.half_precision["min_cosine"] > 0.99
    assert report.half_precision["max_abs_diff"] > 0  # of another order than the difference of the file
    assert name in str(report)
    assert OnnxEncoder(report.path).metadata["precision"]["policies"] == [name]
    # the model itself still computes as it did
    assert {layer.dtype_policy.name for layer in model.layers} == {name}
    np.testing.assert_array_equal(model.predict(x, verbose=0).astype("float64"), own)
    assert verify_onnx(report.path, model).passed


def test_subclassed_model_without_configuration(policy, tmp_path):
    policy("mixed_bfloat16")
    model = Subclassed(7)
    x = np.random.default_rng(1).normal(size=(3, 6)).astype("float32")
    model(x)
    policy("float32")
    report = export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    inner, bias, outer, last = (np.asarray(weight, "float64") for weight in model.get_weights())
    np.testing.assert_allclose(run(report.path, x), np.tanh(x @ inner + bias) @ outer + last, atol=1e-5)


def test_policies_come_back_after_a_refusal(policy, tmp_path):
    policy("mixed_float16")
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Resizing(4, 4, "area"), layers.Flatten()])
    with pytest.raises(UnsupportedLayerError):
        export_onnx(model, tmp_path / "encoder.onnx")
    assert {layer.dtype_policy.name for layer in model.layers} == {"mixed_float16"}


def test_a_layer_made_in_the_first_call_is_named(policy, tmp_path):
    class MakesLayerLate(keras.Model):
        def build(self, shape):
            self.late = layers.Dense(3, name="late")
            self.late.build(shape)

        def call(self, x):
            return self.late(x)

    policy("mixed_float16")
    model = MakesLayerLate()
    x = np.ones((2, 4), "float32")
    with pytest.raises(UnsupportedLayerError, match=r"`late` \(Dense\).*Call the model once before"):
        export_onnx(model, tmp_path / "encoder.onnx", samples=x)
    assert list(tmp_path.iterdir()) == []
    assert export_onnx(model, tmp_path / "encoder.onnx", samples=x).policies == ("mixed_float16",)


def test_overflow_of_half_precision_is_said(policy, tmp_path):
    policy("mixed_float16")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_initializer=lambda s, dtype: 1e5 * np.ones(s))])
    report = export_onnx(model, tmp_path / "encoder.onnx")
    assert report.matches
    assert report.half_precision is None
    assert "overflow" in str(report)


def test_a_policy_map_and_a_quantized_layer(tmp_path):
    shared = keras.dtype_policies.DTypePolicyMap("mixed_float16")
    quantized = layers.Dense(5, dtype="mixed_bfloat16")
    quantized.build((None, 6))
    quantized.quantize("int8")
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6, dtype=shared), quantized])
    report = export_onnx(model, tmp_path / "encoder.onnx")
    assert report.policies == ("int8_from_mixed_bfloat16", "map_mixed_float16")
    assert report.matches
    assert model.layers[0].dtype_policy is shared
    assert len(shared) == 0
    assert quantized.dtype_policy.name == "int8_from_mixed_bfloat16"
