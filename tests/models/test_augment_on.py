"""`augment_on="device"`: the training step makes the very views that the input pipeline would make."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.data.views import Unaugmented, ViewPipeline
from keras_tfcl.models import augmentation

X = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 3), "uint8")
Y = np.arange(24) % 3


def augmenter():
    """A quick one."""
    return keras_tfcl.ImageAugmenter([keras.layers.RandomFlip("horizontal"), keras.layers.RandomBrightness(0.3)])


def model(augment_on, compile_with=None, seed=4):
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential(
        [keras.Input(X.shape[1:]), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(6)]
    )
    built = keras_tfcl.ContrastiveModel(encoder, augmenter=augmenter(), seed=seed, augment_on=augment_on)
    built.compile("sgd", loss=keras_tfcl.InfoNCE(0.5), metrics=[keras_tfcl.ContrastiveAccuracy()], **compile_with or {})
    return built


def test_views_are_those_of_the_host():
    """Compiled by XLA; a whole run, below, is not."""
    photos = keras_tfcl.layers.image_augmenter("photos", X.shape[1:])
    host, device = (ViewPipeline(photos, 2, 7, on_device=on_device) for on_device in (False, True))
    options = {"batch_size": 8, "step": lambda: 30}
    expected = host.batches(X, Y, **options)
    found = device.batches(X, Y, **options)
    make = tf.function(device.views_of, jit_compile=True)
    for (views, labels), (samples, same_labels) in zip(expected, found, strict=True):
        assert isinstance(samples, Unaugmented)
        np.testing.assert_array_equal(labels, same_labels)
        for view, made in zip(views, make(samples), strict=True):
            np.testing.assert_allclose(made, view, atol=0.01)  # of 255
    assert np.ptp(views[0] - views[1]) > 10


def test_a_run_is_that_of_the_host():
    """Training, validation and evaluation, from a data set; the other tests train from arrays."""
    x = tf.data.Dataset.from_tensor_slices(X).batch(8)
    fitted = {}
    for augment_on in ("host", "device"):
        trained = model(augment_on, {"steps_per_execution": 3})
        history = trained.fit(x, epochs=2, validation_data=x, verbose=0).history
        fitted[augment_on] = [*trained.get_weights(), *map(np.array, history.values())]
    for host, device in zip(*fitted.values(), strict=True):
        np.testing.assert_allclose(device, host, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_is_that_of_one_piece(tmp_path):
    whole = model("device")
    whole.fit(X, batch_size=8, epochs=3, verbose=0)
    first = model("device")
    first.fit(X, batch_size=8, epochs=1, verbose=0)
    first.save(tmp_path / "model.keras")
    rest = keras.models.load_model(tmp_path / "model.keras")
    assert rest.augment_on == "device"
    rest.fit(X, batch_size=8, initial_epoch=1, epochs=3, verbose=0)
    for expected, found in zip(whole.get_weights(), rest.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_with_a_queue_and_more_views():
    memory = {"momentum": 0.9, "queue_size": 24, "views": 3}
    losses = []
    for augment_on in ("host", "device"):
        keras.utils.set_random_seed(1)
        encoder = keras.Sequential([keras.Input(X.shape[1:]), keras.layers.Flatten(), keras.layers.Dense(6)])
        trained = keras_tfcl.ContrastiveModel(encoder, augmenter=augmenter(), seed=4, augment_on=augment_on, **memory)
        trained.compile(keras.optimizers.SGD(1e-6), loss=keras_tfcl.InfoNCE(0.5), run_eagerly=True)
        losses.append(trained.fit(X, batch_size=8, epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_generators_are_augmented_on_the_host():
    def batches():
        yield X[:8]
        yield X[8:16]

    models = [model(on, {"run_eagerly": True}) for on in ("host", "device")]
    losses = [m.fit(batches(), steps_per_epoch=2, verbose=0).history["loss"] for m in models]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_the_first_batch_is_checked_on_the_device_too():
    trained = model("device")
    with pytest.warns(UserWarning, match="expects images with values 0 to 255|come out of the augmenter as"):
        trained.fit(X.astype("float32") / 255, batch_size=8, verbose=0)


def test_layers_without_xla_are_not_compiled_with_it():
    digits = keras_tfcl.layers.image_augmenter("digits", (12, 12, 1))
    assert augmentation.compiles_with_xla(augmenter()) and not augmentation.compiles_with_xla(digits)
    encoder = keras.Sequential([keras.Input((12, 12, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    trained = keras_tfcl.ContrastiveModel(encoder, augmenter=digits, augment_on="device")
    trained.compile("sgd", loss=keras_tfcl.InfoNCE(0.5))
    assert trained.jit_compile is False
    assert np.isfinite(trained.fit(X[..., :1], batch_size=8, verbose=0).history["loss"]).all()


def test_auto_takes_a_gpu(monkeypatch):
    """Where there is one, and the augmenter compiles with XLA and draws from a seed."""
    assert not augmentation.augments_on_device("auto", augmenter(), 1) or tf.config.list_physical_devices("GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert augmentation.augments_on_device("auto", augmenter(), 1)
    digits = keras_tfcl.layers.image_augmenter("digits", (12, 12, 1))
    for other in (digits, keras.layers.RandomFlip(), lambda x: x, None):
        assert not augmentation.augments_on_device("auto", other, 1)
    assert not augmentation.augments_on_device("auto", augmenter(), 2)
    assert not augmentation.augments_on_device("host", augmenter(), 1)


def test_refusals():
    with pytest.raises(ValueError, match=r"must be one of .*Received: augment_on='gpu'"):
        augmentation.augments_on_device("gpu", augmenter(), 1)
    with pytest.raises(ValueError, match=r"method `augment\(x, seed\)`.*Received: augmenter=RandomFlip"):
        augmentation.augments_on_device("device", keras.layers.RandomFlip(), 1)
    with pytest.raises(ValueError, match="Received: 2 replicas"):
        augmentation.augments_on_device("device", augmenter(), 2)
