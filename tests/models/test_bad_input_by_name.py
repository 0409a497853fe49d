"""Input that cannot train is refused in one short sentence that names it, and what to pass instead works."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_tfcl

X = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
LABELS = np.arange(12) % 3


def compiled(**options):
    encoder = options.pop("encoder", None) or keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model = keras_tfcl.ContrastiveModel(encoder, seed=0, **options)
    model.compile("sgd", keras_tfcl.InfoNCE(0.2))
    return model


@pytest.mark.parametrize(
    "class_weight", [[1.0, 2.0], "balanced", {"cat": 1.0}, {0: float("nan")}, {1: None}, {0: -1.0}], ids=repr
)
@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_class_weights_that_are_none(method, class_weight):
    with pytest.raises(ValueError, match=r"`class_weight` must be a dict .* Received: .* Pass"):
        getattr(compiled(), method)((X, X + 0.1), LABELS, class_weight=class_weight)


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch"])
def test_weights_below_zero(method, weight):
    weights = np.append(np.ones(11), weight)
    with pytest.raises(ValueError, match=r"`sample_weight` must be finite and at least 0.* Received: .* 1 such in all"):
        getattr(compiled(), method)((X, X + 0.1), LABELS, sample_weight=weights)


@pytest.mark.parametrize("batch_size", [0, -4, 2.5, True])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_batch_sizes(method, batch_size):
    with pytest.raises(ValueError, match=r"`batch_size` must be an integer of at least 1. Received: batch_size="):
        getattr(compiled(), method)((X, X + 0.1), batch_size=batch_size)


def test_arguments_are_fixed():
    model = compiled(momentum=0.9)
    for name, value in (("encoder", model.encoder), ("momentum", 0.99)):
        with pytest.raises(AttributeError, match=f"`{name}` is fixed when a ContrastiveModel is created"):
            setattr(model, name, value)


def test_predict_of_no_samples():
    with pytest.raises(ValueError, match="`x` must hold at least one sample"):
        compiled().predict(X[:0])


def test_labels_of_several_outputs():
    with pytest.raises(ValueError, match=r"labels must be one array. Received: a dict of 2 arrays"):
        compiled(supervised=True, views=1).fit((X,), {"a": LABELS, "b": LABELS}, verbose=0)


@pytest.mark.parametrize(
    ("values", "received", "remedy"),
    [
        (LABELS.astype(object), "entries of type int", "astype('int64')"),
        (np.array([1, "a"] * 6, dtype=object), "entries of type int, str", "two arrays"),
        (np.array(["2020-01-01"] * 12, "datetime64[D]"), "datetime64", "astype('int64')"),
        (LABELS.astype("complex64"), "complex64", "real"),
    ],
)
def test_dtypes_of_labels(values, received, remedy):
    with pytest.raises(ValueError) as raised:
        compiled(supervised=True, views=1).fit((X,), values, verbose=0)
    assert received in str(raised.value) and remedy in str(raised.value)


def test_an_augmenter_of_another_dtype():
    with pytest.raises(ValueError, match=r"`augmenter` must .* fails on int64 ") as raised:
        compiled(augmenter=keras.layers.GaussianNoise(0.1)).fit(X.astype("int64"), verbose=0)
    assert "in user code" not in str(raised.value) and len(str(raised.value)) < 700


def test_a_list_of_inputs_of_one_encoder():
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    encoder = keras.Model([a, b], keras.layers.Dense(4)(keras.layers.Concatenate()([a, b])))
    model = compiled(encoder=encoder)
    with pytest.raises(ValueError, match="a dict of arrays by input name"):
        model.predict([X[:, :2], X[:, 2:]])
    remedy = {"a": X[:, :2], "b": X[:, 2:]}
    expected = np.concatenate([X[:, :2], X[:, 2:]], 1) @ encoder.layers[-1].get_weights()[0]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(remedy, verbose=0), expected, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_validation_loss_of_a_bad_input_that_the_encoder_hides(bad):
    front = keras.layers.ReLU(max_value=1.0)
    model = compiled(encoder=keras.Sequential([keras.Input((5,)), front, keras.layers.Dense(4)]))
    x = X.copy()
    x[3, 1] = bad
    assert np.isnan(model.evaluate((X, x), verbose=0)) and np.isnan(model.test_on_batch((x, X)))
    assert np.isfinite(model.evaluate((X, X + 0.1), verbose=0))
