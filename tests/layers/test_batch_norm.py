"""Momentum and statistics of batch normalisation, wherever in a model it is."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfcl.layers import recalibrate_batch_norm, set_batch_norm_momentum


class Holder(keras.layers.Layer):
    """A layer of one's own that holds others in a list."""

    def __init__(self):
        super().__init__()
        self.parts = [keras.layers.Dense(4), keras.layers.BatchNormalization()]

    def call(self, x, training=False):
        return self.parts[1](self.parts[0](x), training=training)


def nested():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="inner")])
    return keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="outer"), Holder(), inner])


def test_every_layer_is_found_once():
    model = nested()
    assert set_batch_norm_momentum(model, 0.8) == 3
    momenta = [model.layers[0].momentum, model.layers[1].parts[1].momentum, model.layers[2].layers[0].momentum]
    assert momenta == [0.8] * 3


@pytest.mark.parametrize("as_dataset", [False, True])
def test_statistics_are_the_means_over_batches(as_dataset):
    x = np.random.default_rng(0).normal(3.0, 2.0, (50, 3)).astype("float32")
    model = nested()
    model.trainable = False  # nor is a frozen one left out
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(50))).batch(10) if as_dataset else x
    assert recalibrate_batch_norm(model, data, batch_size=10) == 3
    batches = x.reshape(5, 10, 3)
    first = model.layers[0]
    np.testing.assert_allclose(first.moving_mean, batches.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(first.moving_variance, batches.var(1).mean(0), rtol=1e-4)
    assert first.momentum == 0.99 and not first.trainable and not model.trainable_variables


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"`momentum` must be a number in \[0, 1\)\. Received: momentum=1"):
        set_batch_norm_momentum(nested(), 1)
    with pytest.raises(ValueError, match=r"`x` must hold at least one batch of 32\. Received: none"):
        recalibrate_batch_norm(nested(), np.zeros((8, 3), "float32"))
    with pytest.raises(ValueError, match=r"`x` must be finite\. Received: an infinite data set"):
        recalibrate_batch_norm(nested(), tf.data.Dataset.from_tensors(np.zeros((8, 3), "float32")).repeat())
