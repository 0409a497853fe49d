import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfcl.layers import ProjectionHead


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(6, 12)).astype("float32")


def test_equals_a_numpy_mlp_with_batch_statistics(features):
    head = ProjectionHead((8, 4))
    got = head(features, training=True).numpy()
    hidden_kernel, scale, shift, kernel, bias = (w.numpy().astype("float64") for w in head.trainable_weights)
    hidden = features.astype("float64") @ hidden_kernel
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-3) * scale + shift
    np.testing.assert_allclose(got, np.maximum(hidden, 0) @ kernel + bias, rtol=1e-5, atol=1e-5)


def test_without_batch_norm_hidden_layers_have_a_bias(features):
    head = ProjectionHead((8, 8, 4), activation="gelu", batch_norm=False)
    head.build((None, 12))
    assert [tuple(w.shape) for w in head.weights] == [(12, 8), (8,), (8, 8), (8,), (8, 4), (4,)]
    assert head.compute_output_shape((5, 12)) == (5, 4) == head(features[:5]).shape


def test_one_unit_is_a_linear_map(features):
    head = ProjectionHead((3,))
    got = head(features).numpy()
    kernel, bias = head.get_weights()
    np.testing.assert_allclose(got, features @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_training_moves_the_statistics_and_inference_uses_them(features):
    head = ProjectionHead((8, 4))
    before = head(features, training=False).numpy()
    head(features, training=True)
    assert not np.allclose(before, head(features, training=False).numpy())


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_config_keeps_every_argument_and_dtype(policy):
    head = ProjectionHead((8, 4), activation="swish", batch_norm=False, name="head", dtype=policy)
    copy = keras.layers.deserialize(keras.layers.serialize(head))
    assert isinstance(copy, ProjectionHead)
    assert copy.get_config() == head.get_config()
    assert copy.dtype_policy.name == policy == copy.stages[0].dtype_policy.name


# Keras hands TensorFlow's variables to NumPy 2 in a way that NumPy deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_survives_a_keras_file(features, tmp_path):
    inputs = keras.Input((12,))
    model = keras.Model(inputs, ProjectionHead((8, 4))(inputs))
    model(features, training=True)
    model.save(tmp_path / "head.keras")
    again = keras.models.load_model(tmp_path / "head.keras")
    np.testing.assert_array_equal(model(features).numpy(), again(features).numpy())


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_survives_a_keras_file_when_it_is_quantized(features, tmp_path):
    model = keras.Sequential([keras.Input((12,)), ProjectionHead((8, 4))])
    model.quantize("int8")
    model.save(tmp_path / "head.keras")
    loaded = keras.models.load_model(tmp_path / "head.keras")
    assert loaded.layers[0].stages[0].quantization_mode == "int8"
    np.testing.assert_array_equal(loaded(features), model(features))


def test_runs_under_xla(features):
    head = ProjectionHead((8, 4))
    compiled = tf.function(lambda x: head(x, training=False), jit_compile=True)
    np.testing.assert_allclose(compiled(features), head(features, training=False), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("units", [(), (8, 0), (8, -1), (8, 2.5), (True,), "256", 256, None])
def test_refuses_bad_units(units):
    with pytest.raises(ValueError, match=r"`units` .*Received: units="):
        ProjectionHead(units)


def test_refuses_feature_maps():
    with pytest.raises(ValueError, match=r"shape \(B, F\).*Received: shape=\(2, 4, 4, 3\).*GlobalAveragePooling2D"):
        ProjectionHead((8, 4))(np.zeros((2, 4, 4, 3), "float32"))


def test_refuses_an_unknown_number_of_features():
    with pytest.raises(ValueError, match="number of features"):
        ProjectionHead((8, 4)).build((None, None))
