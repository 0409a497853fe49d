"""What every metric of the package must do as a Keras object."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfcl.evaluation import pairs
from keras_tfcl.metrics import Alignment, ContrastiveAccuracy, Tolerance, Uniformity

METRICS = {
    "alignment": lambda: Alignment(alpha=1.5, name="a", dtype="float64"),
    "uniformity": lambda: Uniformity(t=3.0, name="u", dtype="float64"),
    "tolerance": lambda: Tolerance(name="t", dtype="float64"),
    "contrastive_accuracy": lambda: ContrastiveAccuracy(k=4, name="c", dtype="float64"),
}
each_metric = pytest.mark.parametrize("make", METRICS.values(), ids=METRICS.keys())
each_class = pytest.mark.parametrize("metric_class", [Alignment, ContrastiveAccuracy, Tolerance, Uniformity])


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.integers(0, 3, 12), rng.normal(size=(12, 2, 6)).astype("float32")


@each_metric
def test_config_keeps_every_argument_and_dtype(make):
    metric = make()
    copy = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()
    assert copy.dtype == "float64" == copy.variables[0].dtype


@each_class
def test_is_registered_with_keras(metric_class):
    assert keras.saving.get_registered_object(f"keras_tfcl>{metric_class.__name__}") is metric_class


@each_class
def test_sums_are_float32_by_default(metric_class):
    """In float16, 65,536 pairs are too many to count."""
    keras.config.set_floatx("float16")
    try:
        assert {v.dtype for v in metric_class().variables} == {"float32"}
    finally:
        keras.config.set_floatx("float32")


@each_class
def test_variables_are_summed_over_replicas(metric_class):
    assert [v.aggregation for v in metric_class().variables] == ["sum", "sum"]


@each_class
def test_xla_agrees_with_eager(metric_class, batch):
    eager, metric = metric_class(), metric_class()
    eager.update_state(*batch)
    tf.function(metric.update_state, jit_compile=True)(tf.constant(batch[0]), tf.constant(batch[1]))
    assert float(metric.result()) == pytest.approx(float(eager.result()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@each_class
def test_graph_of_unknown_batch_size(metric_class, batch, jit_compile, monkeypatch):
    monkeypatch.setattr(pairs, "STRIP", 200)  # several strips for 24 embeddings, one for 10
    metric = metric_class()
    signature = [tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None, 2, 6), tf.float32)]
    update = tf.function(metric.update_state, input_signature=signature, jit_compile=jit_compile)
    update(*batch)
    update(batch[0][:5], batch[1][:5])
    if not jit_compile:
        update(batch[0][:0], batch[1][:0])
    expected = metric_class()
    expected.update_state(*batch)
    expected.update_state(batch[0][:5], batch[1][:5])
    assert float(metric.result()) == pytest.approx(float(expected.result()), rel=1e-5)


def zero_loss(y_true, y_pred):
    return keras.ops.sum(y_pred * 0.0, axis=-1)


# Keras hands TensorFlow's variables to NumPy 2 in a way that NumPy deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_works_in_compile_and_survives_a_keras_file(tmp_path):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(24, 6)).astype("float32"), rng.integers(0, 3, 24) + 2**40
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    metrics = [Alignment(alpha=1.0), Uniformity(), Tolerance(), ContrastiveAccuracy(k=2)]
    model.compile("sgd", zero_loss, metrics=metrics, jit_compile=False)
    history = model.fit(x, labels, batch_size=8, shuffle=False, verbose=0).history
    for metric in (Alignment(alpha=1.0), Uniformity(), Tolerance(), ContrastiveAccuracy(k=2)):
        for start in (0, 8, 16):
            metric.update_state(labels[start : start + 8], model(x[start : start + 8]))
        assert history[metric.name][0] == pytest.approx(float(metric.result()), rel=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects={"zero_loss": zero_loss})
    before, after = (m.evaluate(x, labels, batch_size=8, verbose=0, return_dict=True) for m in (model, again))
    assert set(before) == {"loss", "alignment", "uniformity", "tolerance", "contrastive_accuracy"}
    assert after == pytest.approx(before)


@pytest.mark.parametrize(
    ("labels", "shape", "weights", "message"),
    [
        ([0, 1], (2,), None, r"`y_pred` must be embeddings of shape \(B, D\) or \(B, V, D\). Received: shape=\(2,\)"),
        ([0, 1], (2, 3, 3, 4), None, r"`y_pred` must be .*Received: shape=\(2, 3, 3, 4\)"),
        ([0, 1, 2], (2, 4), None, r"`y_true` must have one entry .*Received: 3 entries for 2 rows"),
        ([0, 1], (2, 4), [1.0], r"`sample_weight` must have one entry .*Received: 1 entries for 2 rows"),
        ([0, 1], (2, 2, 4), np.ones((2, 2)), r"`sample_weight` of a metric must have .*Received: shape=\(2, 2\)"),
        ([0.5, 1.0], (2, 4), None, r"`y_true` must be integer labels"),
        ([[0, 1], [2, 0]], (2, 4), None, r"`y_true` of shape \(B, L\) must be multi-hot labels, 0 or 1"),
    ],
)
@each_class
def test_bad_input_is_named(metric_class, labels, shape, weights, message):
    ignores_labels = metric_class is Uniformity and "y_true" in message
    with contextlib.nullcontext() if ignores_labels else pytest.raises(ValueError, match=message):
        metric_class().update_state(labels, np.ones(shape, "float32"), sample_weight=weights)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Alignment(alpha=0), "`alpha` must be a positive finite number. Received: alpha=0"),
        (lambda: Alignment(alpha="2"), "`alpha` must be .*Received: alpha='2'"),
        (lambda: Uniformity(t=-1.0), "`t` must be a positive finite number. Received: t=-1.0"),
        (lambda: Uniformity(t=21.0), "`t` must be at most 20. Received: t=21.0"),
        (lambda: ContrastiveAccuracy(k=0), "`k` must be an integer of at least 1. Received: k=0"),
        (lambda: ContrastiveAccuracy(k=1.5), "`k` must be an integer of at least 1. Received: k=1.5"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
