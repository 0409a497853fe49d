import csv
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.labelled_sets import sets_by_direction
from keras_tfcl.callbacks import KNNEvaluation
from keras_tfcl.evaluation import knn_accuracy


@pytest.fixture
def sets():
    return sets_by_direction()


@pytest.fixture
def encoder():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model.compile("sgd", "mse", run_eagerly=True)
    return model


def fit(model, callbacks, epochs=1, **kwargs):
    x = np.ones((8, 6), "float32")
    return model.fit(x, np.zeros((8, 4)), epochs=epochs, verbose=0, callbacks=callbacks, **kwargs).history


def test_history_gets_the_accuracy_of_each_epoch(sets, encoder):
    train, val = sets
    history = fit(encoder, [KNNEvaluation(train, val, k=3)], epochs=3)
    assert len(history["knn_accuracy"]) == 3
    kernel, bias = (w.astype("float64") for w in encoder.get_weights())
    by_hand = knn_accuracy(train[0] @ kernel + bias, train[1], val[0] @ kernel + bias, val[1], 3)
    assert history["knn_accuracy"][-1] == pytest.approx(by_hand)


def test_every_second_epoch_under_another_name(sets, encoder):
    history = fit(encoder, [KNNEvaluation(*sets, every=2, name="knn")], epochs=5)
    assert len(history["knn"]) == 2 and len(history["loss"]) == 5


def test_later_callbacks_see_it(sets, encoder, tmp_path):
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["knn_accuracy"]))
    # A learning rate of 0 never improves: stops after the second epoch.
    encoder.optimizer.learning_rate = 0.0
    stop = keras.callbacks.EarlyStopping(monitor="knn_accuracy", mode="max", patience=1)
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    history = fit(encoder, [KNNEvaluation(*sets), watch, stop, log], epochs=5)
    assert len(history["knn_accuracy"]) == 2
    assert history["knn_accuracy"] == seen
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [float(row["knn_accuracy"]) for row in rows] == seen


def test_beside_validation_data(sets, encoder):
    validation = (np.ones((4, 6), "float32"), np.zeros((4, 4)))
    assert set(fit(encoder, [KNNEvaluation(*sets)], validation_data=validation)) == {"loss", "val_loss", "knn_accuracy"}


def test_a_dataset_that_shuffles_keeps_x_and_labels_together(sets, encoder):
    train, val = sets
    datasets = [tf.data.Dataset.from_tensor_slices(s).shuffle(60).batch(7) for s in (train, val)]
    from_datasets = fit(encoder, [KNNEvaluation(*datasets, k=3)])["knn_accuracy"]
    callback = KNNEvaluation(train, val, k=3)
    callback.set_model(encoder)
    assert from_datasets == [callback.evaluate()]


def test_structured_inputs():
    inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((2,), name="b")}
    model = keras.Model(inputs, keras.layers.Concatenate()([inputs["a"], inputs["b"]]))
    x = {"a": np.eye(2, dtype="float32"), "b": np.zeros((2, 2), "float32")}
    callback = KNNEvaluation((x, [0, 1]), (x, [0, 1]), k=1)
    callback.set_model(model)
    assert callback.evaluate() == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "`k` must be an integer of at least 1. Received: k=0"),
        ({"batch_size": 1.5}, "`batch_size` must be an integer of at least 1. Received: batch_size=1.5"),
        ({"every": -1}, "`every` must be an integer of at least 1. Received: every=-1"),
        ({"train": ([[1.0], [2.0]], [0])}, r"`train` must have as many labels.*Received: \[2\] samples and 1 labels"),
        ({"train": np.ones((3, 6))}, r"`train` must be a pair \(x, labels\).*Received: ndarray"),
        ({"val": (np.ones((3, 6)), [0, 1])}, r"`val` must have as many labels.*Received: \[3\] samples and 2 labels"),
        ({"val": (np.ones((0, 6)), [])}, "`val` must have as many labels as samples, at least one"),
        ({"val": tf.data.Dataset.from_tensors(np.ones((3, 6)))}, r"`val` must be a tf.data.Dataset of \(x, labels\)"),
        (
            {"val": tf.data.Dataset.from_tensors((np.ones((3, 6)), [0, 1, 2])).repeat()},
            "`val` must be finite. Received: an infinite dataset",
        ),
        (
            {"val": tf.data.Dataset.from_tensor_slices((np.ones((3, 6)), [0, 1, 2]))},
            r"`val` must come in batches. Received: single elements.*batch\(256\)",
        ),
    ],
)
def test_bad_arguments_are_named_at_construction(sets, change, message):
    arguments = {"train": sets[0], "val": sets[1], **change}
    with pytest.raises(ValueError, match=message):
        KNNEvaluation(**arguments)


def test_a_model_of_two_encoders_is_refused_before_it_trains(sets):
    encoders = tuple(keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)]) for _ in range(2))
    model = keras_tfcl.ContrastiveModel(encoders)
    model.compile("sgd", keras_tfcl.InfoNCE(0.5))
    x = sets[0][0].astype("float32")
    with pytest.raises(ValueError, match=r"`KNNEvaluation` evaluates one encoder. Received: a model of 2"):
        model.fit((x, x), verbose=0, callbacks=[KNNEvaluation(*sets)])
    assert int(model.optimizer.iterations) == 0


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r'pip install "keras-tfcl\[evaluation\]"'):
        KNNEvaluation(([[1.0]], [0]), ([[1.0]], [0]))
