"""Losses as Keras objects: configuration, saving, reductions, names, and labels that must not be cast."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl

Z = np.random.default_rng(0).normal(size=(6, 2, 5)).astype("float32")
LABELS = np.array([0, 1, 2, 3, 4, 4])


@keras.saving.register_keras_serializable(package="tests")
class Cubic(keras_tfcl.Scaling):
    def __init__(self, strength=5.0):
        self.strength = strength

    def __call__(self, similarity):
        return self.strength * (similarity + similarity**3)

    def get_config(self):
        return {"strength": self.strength}


@keras.saving.register_keras_serializable(package="tests")
class NotTooSimilar(keras_tfcl.Negatives):
    def __init__(self, limit=0.95):
        self.limit = limit

    def keep(self, similarity, mask):
        return mask & (similarity < self.limit)

    def get_config(self):
        return {"limit": self.limit}


# Each with arguments that differ from the defaults.
LOSSES = {
    "contrastive": keras_tfcl.ContrastiveLoss(
        "arctanh", keras_tfcl.HardNegatives(top_k=3), decoupled=True, reduction="sum", name="mine", dtype="float64"
    ),
    "custom": keras_tfcl.ContrastiveLoss(Cubic(3.0), negatives=NotTooSimilar(0.5), cross_view_only=True),
    "reweighted": keras_tfcl.ContrastiveLoss(0.5, negatives=keras_tfcl.ReweightedNegatives(2.0, 0.1, detach=True)),
    "learnable": keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.2, maximum_scale=50.0)),
    "infonce": keras_tfcl.InfoNCE(0.3, negatives=keras_tfcl.HardNegatives(alpha=0.7), reduction=None, dtype="float16"),
    "arctanh": keras_tfcl.ArctanhInfoNCE(scale=3.0, decoupled=True, name="free"),
    "hard": keras_tfcl.HardNegativeInfoNCE(None, top_k=2, cross_view_only=True, dtype="float64"),
    "hard_alpha": keras_tfcl.HardNegativeInfoNCE(0.4, alpha=0.3, reduction="mean_with_sample_weight"),
}


def reload(loss):
    """Through the configuration, as JSON text."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    return keras.saving.deserialize_keras_object(config)


@pytest.mark.parametrize("name", LOSSES)
def test_config_round_trip(name):
    loss, copy = LOSSES[name], reload(LOSSES[name])
    assert type(copy) is type(loss)
    assert copy.get_config() == loss.get_config()
    assert (copy.dtype, copy.name, copy.reduction) == (loss.dtype, loss.name, loss.reduction)
    np.testing.assert_array_equal(copy(LABELS, Z), loss(LABELS, Z))


@pytest.mark.parametrize("name", LOSSES)
def test_config_holds_every_argument(name):
    loss = LOSSES[name]
    arguments = {p for p, kind in inspect.signature(type(loss)).parameters.items() if kind.kind is not kind.VAR_KEYWORD}
    assert arguments <= set(loss.get_config())


SAVED_FAST = ("hard", "learnable")  # an object and a variable to save; the others take as long, the same way


@pytest.mark.parametrize(
    "name",  # but infonce: fit needs a scalar
    [pytest.param(n, marks=[] if n in SAVED_FAST else [pytest.mark.slow]) for n in LOSSES if n != "infonce"],
)
@pytest.mark.filterwarnings("ignore:.*trains its own weights only")  # learned temperatures
def test_save_and_load_inside_a_model(name, tmp_path):
    encoder = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8), keras.layers.Reshape((2, 4))])
    encoder.compile("adam", loss=LOSSES[name])
    encoder.fit(Z[:, 0], LABELS, verbose=0)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    assert loaded.loss.get_config() == LOSSES[name].get_config()
    assert loaded.evaluate(Z[:, 0], LABELS, verbose=0) == pytest.approx(encoder.evaluate(Z[:, 0], LABELS, verbose=0))


def test_dtype_survives():
    """keras.losses.Loss.get_config leaves the dtype out."""
    assert reload(keras_tfcl.InfoNCE(dtype="float16")).dtype == "float16"
    assert reload(keras_tfcl.InfoNCE(dtype="float64"))(LABELS, Z).dtype == tf.float64


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_labels_are_never_cast_to_float(dtype):
    """keras.losses.Loss.__call__ casts y_true: in float16 2048 == 2049, in float32 2^24 == 2^24 + 1."""
    loss = keras_tfcl.InfoNCE(dtype=dtype)
    near = np.array([2048, 2049, 2**24, 2**24 + 1, 2**53, 2**53 + 1])
    expected = loss(np.arange(6), Z)
    np.testing.assert_array_equal(loss(near, Z), expected)
    np.testing.assert_array_equal(loss(near[:, None], Z), expected)
    encoder = keras.Sequential([keras.Input((5,)), keras.layers.Reshape((1, 5))])
    encoder.compile(loss=keras_tfcl.InfoNCE(reduction="sum"))
    assert encoder.evaluate(Z[:, 0], near, batch_size=6, verbose=0) == 0  # no two labels are equal: no positives


def test_labels_of_every_integer_dtype():
    expected = keras_tfcl.InfoNCE()(np.array([0, 1, 1, 0, 1, 1]), Z)
    for dtype in ("bool", "int8", "uint8", "int32", "uint32", "int64", "uint64"):
        assert keras_tfcl.InfoNCE()(np.array([0, 1, 1, 0, 1, 1], dtype), Z) == expected
    assert keras_tfcl.InfoNCE()([0, 1, 1, 0, 1, 1], Z.tolist()) == expected


def test_reductions():
    """Rows 2 and 3 have no positive: they weigh nothing in any mean."""
    labels, z = np.array([0, 0, 1, 2, 3, 3]), Z[:, 0]
    weight = np.array([1.0, 2.0, 3.0, 4.0, 0.0, 0.5])
    each = keras_tfcl.InfoNCE(reduction=None)(labels, z).numpy()
    assert each.shape == (6,)
    assert (each[[2, 3]] == 0).all()
    assert (each[[0, 1, 4, 5]] > 0).all()
    weighted = (each * weight).sum()
    expected = {
        "sum": weighted,
        "mean": weighted / 4,
        "sum_over_batch_size": weighted / 4,
        "mean_with_sample_weight": weighted / 3.5,
    }
    for reduction, value in expected.items():
        assert float(keras_tfcl.InfoNCE(reduction=reduction)(labels, z, weight)) == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(keras_tfcl.InfoNCE(reduction="none")(labels, z, weight), each * weight, rtol=1e-6)


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
    encoder.compile(loss=name)
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
