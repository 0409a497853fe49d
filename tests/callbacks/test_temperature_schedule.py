"""The temperature follows its schedule, under XLA without a second trace, and is saved."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.callbacks import TemperatureSchedule, cosine_temperature

X = np.random.default_rng(0).normal(size=(16, 2, 5)).astype("float32")
VIEWS = (X[:, 0], X[:, 1])


def model(loss=None, **kwargs):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    contrastive = keras_tfcl.ContrastiveModel(encoder, seed=0)
    contrastive.compile("sgd", loss=loss or keras_tfcl.ContrastiveLoss(keras_tfcl.ScheduledTemperature(0.3)), **kwargs)
    return contrastive


def test_cosine_of_kukleva():
    """tau(0) = tmax, tau(T) = tmin, tau(2 T) = tmax; halfway between, halfway through."""
    schedule = functools.partial(cosine_temperature, maximum=0.7, minimum=0.2, half_period=10)
    np.testing.assert_allclose([schedule(e) for e in (0, 5, 10, 15, 20)], [0.7, 0.45, 0.2, 0.45, 0.7])
    assert cosine_temperature(1) == pytest.approx(0.1 + 0.2 * (1 + np.cos(np.pi / 200)))


@pytest.mark.parametrize("jit", [True, False])
def test_follows_the_schedule_without_a_second_trace(jit):
    traces = []

    @keras.saving.register_keras_serializable(package="tests")
    class Counting(keras_tfcl.ContrastiveLoss):
        def __call__(self, *args, **kwargs):
            traces.append(1)
            return super().__call__(*args, **kwargs)

    contrastive = model(Counting(keras_tfcl.ScheduledTemperature()), jit_compile=jit)
    contrastive.fit(VIEWS, batch_size=16, epochs=1, verbose=0, callbacks=[TemperatureSchedule(lambda epoch: 0.5)])
    first = len(traces)
    temperatures = [0.5, 0.25, 0.125]
    history = contrastive.fit(
        VIEWS, batch_size=16, epochs=3, verbose=0, callbacks=[TemperatureSchedule(lambda epoch: temperatures[epoch])]
    )
    assert history.history["temperature"] == temperatures
    assert len(traces) == first


def test_the_loss_uses_the_temperature():
    """With a learning rate of 0 only the temperature moves: the losses are InfoNCE's."""
    contrastive = model()
    contrastive.optimizer.learning_rate = 0.0
    schedule = TemperatureSchedule(lambda epoch: [1.0, 0.1][epoch])
    losses = contrastive.fit(VIEWS, batch_size=16, epochs=2, verbose=0, callbacks=[schedule]).history["loss"]
    z = np.stack([contrastive.encoder.predict(view, verbose=0) for view in VIEWS], axis=1)
    expected = [float(keras_tfcl.InfoNCE(t)(np.arange(16), z)) for t in (1.0, 0.1)]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_temperature_is_no_trained_variable_and_is_saved(tmp_path):
    contrastive = model()
    names = [variable.path for variable in contrastive.trainable_variables]
    assert not any("temperature" in name for name in names)
    contrastive.fit(VIEWS, batch_size=16, verbose=0, callbacks=[TemperatureSchedule(lambda epoch: 0.7)])
    contrastive.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(loaded.loss.scaling.temperature) == pytest.approx(0.7)
    assert loaded.loss.scaling.initial == 0.3


def test_keras_schedules_count_epochs():
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.4, 0.2])
    history = model().fit(VIEWS, batch_size=16, epochs=2, verbose=0, callbacks=[TemperatureSchedule(decay)]).history
    np.testing.assert_allclose(history["temperature"], [0.4, 0.2], rtol=1e-6)


def test_replicas():
    """A variable of a strategy is no number for Python."""
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        contrastive = model()
    history = contrastive.fit(VIEWS, batch_size=16, verbose=0, callbacks=[TemperatureSchedule(lambda epoch: 0.5)])
    assert history.history["temperature"] == [0.5]


def test_refusals():
    with pytest.raises(ValueError, match=r"`schedule` must be a function of the epoch.*Received: schedule=0\.1"):
        TemperatureSchedule(0.1)
    fixed = model(keras_tfcl.InfoNCE(0.1))
    with pytest.raises(ValueError, match=r"ScheduledTemperature\. Received: loss=InfoNCE, scaling=Temperature\. Use"):
        fixed.fit(VIEWS, batch_size=16, verbose=0, callbacks=[TemperatureSchedule()])
    with pytest.raises(ValueError, match=r"`temperature` must be a positive.*temperature=-1\.0.*epoch 0"):
        model().fit(VIEWS, batch_size=16, verbose=0, callbacks=[TemperatureSchedule(lambda epoch: -1.0)])
    with pytest.raises(ValueError, match=r"`initial` must be a positive finite number\. Received: initial=0"):
        keras_tfcl.ScheduledTemperature(0)
