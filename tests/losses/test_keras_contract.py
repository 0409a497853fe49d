"""Losses as Keras objects: names, labels of any dtype, and weights of views. The conformance suite checks the rest."""

import keras
import numpy as np
import pytest

import keras_tfcl

Z = np.random.default_rng(0).normal(size=(6, 2, 5)).astype("float32")
LABELS = np.array([0, 1, 2, 3, 4, 4])


def test_labels_of_every_integer_dtype():
    expected = keras_tfcl.InfoNCE()(np.array([0, 1, 1, 0, 1, 1]), Z)
    for dtype in ("bool", "int8", "uint8", "int32", "uint32", "int64", "uint64"):
        assert keras_tfcl.InfoNCE()(np.array([0, 1, 1, 0, 1, 1], dtype), Z) == expected
    assert keras_tfcl.InfoNCE()([0, 1, 1, 0, 1, 1], Z.tolist()) == expected


def test_weights_of_views():
    each = keras_tfcl.InfoNCE(reduction=None)(LABELS, Z).numpy()
    assert each.shape == (6, 2)
    weights = np.random.default_rng(1).uniform(size=(6, 2))
    for weight in (weights, weights[:, 0], weights[:, :1]):
        expected = (each * (weight if weight.ndim == 2 else weight[:, None])).mean()
        assert float(keras_tfcl.InfoNCE()(LABELS, Z, weight)) == pytest.approx(expected, rel=1e-6)
    assert float(keras_tfcl.InfoNCE()(LABELS, Z, 3.0)) == pytest.approx(3 * each.mean(), rel=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "infonce",
        "arctanh_infonce",
        "decoupled_infonce",
        "hard_negative_infonce",
        "sigmoid_contrastive",
        "simple_contrastive",
    ],
)
def test_names(name):
    """By name in keras_tfcl.losses.get, and wherever Keras takes a name."""
    loss = keras_tfcl.losses.get(name)
    assert loss.name == name
    assert type(keras.losses.get(name)) is type(loss)
    encoder = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    encoder.compile(loss=name, run_eagerly=True)
    encoder.evaluate(Z[:, 0], LABELS, verbose=0)
    assert keras_tfcl.losses.get(loss) is loss
    assert type(keras_tfcl.losses.get(keras.saving.serialize_keras_object(loss))) is type(loss)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"must be one of \['arctanh_infonce'.*Received: 'info'"):
        keras_tfcl.losses.get("info")


def test_learnable_temperature_starts_as_a_temperature():
    loss = keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.2))
    assert float(loss(LABELS, Z)) == pytest.approx(float(keras_tfcl.InfoNCE(0.2)(LABELS, Z)), rel=1e-6)


def test_extension_by_a_function():
    """ops.contrastive_loss takes any function as scaling; rows of the two views are candidates of each other."""
    value = keras_tfcl.ops.contrastive_loss(Z[:, 0], Z[:, 1], LABELS, LABELS, scaling=lambda s: s / 0.1)
    again = keras_tfcl.ops.contrastive_loss(Z[:, 0], Z[:, 1], LABELS, LABELS, scaling=0.1)
    np.testing.assert_array_equal(value, again)


@pytest.mark.parametrize("base", ["infonce", "simple_contrastive", "sigmoid_contrastive"])
def test_a_subclass_that_redefines_the_losses_is_computed_by_them(base):
    """In tiles, too, which know the losses of the class above."""

    class MoreAlike(type(keras_tfcl.losses.get(base))):
        def losses_of_pairs(self, similarity, pairs):
            return -keras.ops.sum(keras.ops.where(pairs.positive, similarity, 0.0), 1)

    units = Z / np.linalg.norm(Z, axis=-1, keepdims=True)
    expected = -np.sum(units[:4, 0] * units[:4, 1], -1)
    for block in ("dense", 5):
        losses = MoreAlike(block_size=block, reduction=None)(LABELS, Z).numpy()
        np.testing.assert_allclose(losses[:4], np.stack([expected] * 2, 1), rtol=1e-5)


def test_a_loss_with_a_call_of_its_own_is_refused():
    with pytest.raises(TypeError, match=r"Doubled.*Define `losses_of_pairs"):

        class Doubled(keras_tfcl.InfoNCE):
            def call(self, y_true, y_pred):
                return 2 * super().call(y_true, y_pred)
