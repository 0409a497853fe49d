"""CollapseMonitor in training: what it logs, what it says and when."""

import warnings

import keras
import numpy as np
import pytest

import keras_tfcl
from keras_tfcl.callbacks import CollapseMonitor, CollapseWarning
from keras_tfcl.evaluation import embedding_health

X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")


def model_with(bias=0.0, temperature=0.5, noise=0.5, rate=0.0):
    """A linear encoder; a large bias makes all embeddings point the same way. Learning rate 0: it stays as it is."""
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, bias_initializer=keras.initializers.Constant(bias))]
    )
    model = keras_tfcl.ContrastiveModel(encoder, augmenter=keras.layers.GaussianNoise(noise, seed=1), seed=2)
    model.compile(keras.optimizers.SGD(rate), keras_tfcl.InfoNCE(temperature), run_eagerly=True)
    return model


def fit(model, monitor, epochs=1, x=X):
    return model.fit(x, batch_size=64, epochs=epochs, verbose=0, callbacks=[monitor]).history


def test_a_healthy_model_is_logged_in_silence():
    monitor = CollapseMonitor(X)
    history = fit(model_with(), monitor, epochs=2)
    assert monitor.diagnoses == []
    for name in ("effective_rank", "positive_cosine", "negative_cosine", "saturated", "hardest_share"):
        assert len(history[name]) == 2
        assert history[name][-1] == getattr(monitor.health, name)
    assert 4 < history["effective_rank"][0] <= 8  # eight inputs span no more


def test_logs_what_embedding_health_gives():
    model = model_with()
    views = (X, X + np.float32(0.3) * X[::-1])
    monitor = CollapseMonitor(views)
    monitor.set_model(model)
    monitor.check()
    kernel, bias = model.encoder.get_weights()
    by_hand = embedding_health(np.stack([v @ kernel + bias for v in views], axis=1), keras_tfcl.Temperature(0.5))
    assert monitor.health.positive_cosine == pytest.approx(by_hand.positive_cosine, rel=1e-5)
    assert monitor.health.hardest_share == pytest.approx(by_hand.hardest_share, rel=1e-4)
    assert monitor.health.effective_rank == pytest.approx(by_hand.effective_rank, rel=1e-4)
    model.encoder.compile("sgd", "infonce")  # a plain Keras model keeps the name of the loss; its temperature is 0.1
    monitor.set_model(model.encoder)
    monitor.check()
    by_hand = embedding_health(np.stack([v @ kernel + bias for v in views], axis=1), keras_tfcl.Temperature(0.1))
    assert monitor.health.hardest_share == pytest.approx(by_hand.hardest_share, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "x", "says"),
    [
        ({"bias": 100.0}, X, "collapsed to a point.*BatchNormalization"),
        ({"temperature": 0.005}, X, "nearest negative gets.*larger temperature"),
        ({"noise": 0.01}, X, "hardly distinguishes.*stronger augmentations"),
        ({}, np.concatenate([X[:32], X[:32]]), "have a copy.*Remove copies"),
        ({}, X[:, :1] * np.ones((1, 8), "float32"), "collapsed to few directions.*smaller temperature"),
    ],
)
def test_each_diagnosis_is_a_warning_with_an_action(options, x, says):
    if "few directions" in says:
        options = {**options, "noise": 1e-4}
    with pytest.warns(CollapseWarning, match=f"(?s)After epoch 1: .*{says}"):
        fit(model_with(**options), CollapseMonitor(x), x=x)


def test_a_diagnosis_is_a_warning_once():
    monitor = CollapseMonitor(X)
    with pytest.warns(CollapseWarning) as said:
        fit(model_with(bias=100.0), monitor, epochs=3)
    assert len(said) == 1
    assert [diagnosis.name for diagnosis in monitor.diagnoses] == ["collapse to a point"]


def test_every_and_max_samples():
    monitor = CollapseMonitor(X, max_samples=20, every=2)
    history = fit(model_with(), monitor, epochs=5)
    assert len(history["effective_rank"]) == 2 and monitor.health.samples == 20


def test_of_a_plain_encoder_with_an_augmenter():
    encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    encoder.compile("sgd", "mse", run_eagerly=True)
    monitor = CollapseMonitor(X, augmenter=keras.layers.GaussianNoise(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = encoder.fit(X, np.zeros((64, 16)), verbose=0, callbacks=[monitor]).history
    assert "saturated" not in history  # "mse" has no softmax
    assert "effective_rank" in history


def test_what_is_missing_is_named():
    encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    encoder.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="Two different views of each sample are needed"):
        encoder.fit(X, np.zeros((64, 16)), verbose=0, callbacks=[CollapseMonitor(X, every=10)])  # before it trains
    with pytest.raises(ValueError, match="at least two samples"):
        CollapseMonitor(X[:1])
    with pytest.raises(ValueError, match=r"`every` must be an integer of at least 1. Received: every=0"):
        CollapseMonitor(X, every=0)


def test_pixels_out_of_range_are_the_only_diagnosis():
    """Everything comes out of the augmenter as noise then; batch normalisation is not to blame."""
    images = np.random.default_rng(0).random((32, 6, 6, 3)).astype("float32")
    encoder = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten(), keras.layers.Dense(4, "sigmoid")])
    augmenter = keras_tfcl.layers.image_augmenter("photos", (6, 6, 3))
    model = keras_tfcl.ContrastiveModel(encoder, augmenter=augmenter, seed=0)
    model.compile("sgd", "infonce")
    monitor = CollapseMonitor(images)
    monitor.set_model(model)
    with pytest.warns(UserWarning, match="values 0 to 255"):
        (diagnosis,) = monitor.check()
    assert diagnosis.name == "pixel range" and "BatchNormalization" not in str(diagnosis)
    monitor = CollapseMonitor(images * 255)
    monitor.set_model(model)
    assert "pixel range" not in [diagnosis.name for diagnosis in monitor.check()]


def with_batch_norm(bias, momentum):
    """Batch normalisation of inputs far from zero: with moving averages of 0 and 1 all outputs point the same way."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, bias_initializer=keras.initializers.Constant(bias))]
    layers += [keras.layers.BatchNormalization(momentum=momentum), keras.layers.Dense(8, use_bias=False)]
    encoder = keras.Sequential([keras.Input((8,)), *layers])
    model = keras_tfcl.ContrastiveModel(encoder, augmenter=keras.layers.GaussianNoise(0.5), seed=2)
    model.compile(keras.optimizers.SGD(1e-3), keras_tfcl.InfoNCE(0.5), run_eagerly=True)
    return model


def test_lagging_batch_normalisation_is_told_apart_from_a_collapse():
    model, monitor = with_batch_norm(100.0, momentum=0.999), CollapseMonitor(X)
    with pytest.warns(CollapseWarning, match=r"healthy in training mode .* but not in inference .*recalibrate_batch"):
        fit(model, monitor, epochs=2)
    assert [diagnosis.name for diagnosis in monitor.diagnoses] == ["batch normalisation"]
    before = [np.array(weight) for weight in model.weights]
    monitor.check()
    for weight, same in zip(model.weights, before, strict=True):  # the check in training mode leaves no trace
        np.testing.assert_array_equal(weight, same)
    keras_tfcl.layers.recalibrate_batch_norm(model.encoder, X)
    assert monitor.check() == []


def test_a_collapse_in_both_modes_is_a_collapse():
    model = with_batch_norm(0.0, momentum=0.0)
    model.encoder.layers[-1].set_weights([np.ones((16, 8), "float32")])
    monitor = CollapseMonitor(X)
    monitor.set_model(model)
    assert [diagnosis.name for diagnosis in monitor.check()] == ["dimensional collapse"]
