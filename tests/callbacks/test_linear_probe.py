import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from helpers.labelled_sets import sets_by_scale
from keras_tfcl.callbacks import LinearProbe
from keras_tfcl.evaluation import linear_accuracy


@pytest.fixture(scope="module")
def sets():
    return sets_by_scale()


def test_callback_logs_the_accuracy_of_the_embeddings(sets):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    encoder.compile("sgd", "mse", run_eagerly=True)
    train, val = sets
    datasets = [tf.data.Dataset.from_tensor_slices(part).shuffle(90).batch(7) for part in sets]
    probes = [LinearProbe(train, val), LinearProbe(*datasets, name="from_datasets", regularization=1.0)]
    logs = encoder.fit(np.ones((8, 5)), np.zeros((8, 4)), epochs=2, verbose=0, callbacks=probes).history
    kernel, bias = (w.astype("float64") for w in encoder.get_weights())
    by_hand = linear_accuracy(train[0] @ kernel + bias, train[1], val[0] @ kernel + bias, val[1])
    assert len(logs["linear_accuracy"]) == 2
    assert logs["linear_accuracy"][-1] == pytest.approx(by_hand)
    assert logs["from_datasets"] == pytest.approx(logs["linear_accuracy"])


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r'pip install "keras-tfcl\[evaluation\]"'):
        LinearProbe(([[1.0]], [0]), ([[1.0]], [0]))
