"""Where cosines reach +-1, and embeddings that are zero or not finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import value_and_derivative, value_and_gradient
from keras_tfcl.testing import parametrize_with_checks, reference

LOSSES = {
    "infonce": keras_tfcl.InfoNCE(0.1),
    "infonce_small": keras_tfcl.InfoNCE(0.001),
    "arctanh": keras_tfcl.ArctanhInfoNCE(),
    "arctanh_8": keras_tfcl.ArctanhInfoNCE(scale=8.0),
    "hard": keras_tfcl.HardNegativeInfoNCE(0.1, top_k=2),
    "hard_arctanh": keras_tfcl.HardNegativeInfoNCE(None, alpha=0.5),
    "decoupled": keras_tfcl.ContrastiveLoss("arctanh", decoupled=True),
    "reweighted": keras_tfcl.ContrastiveLoss("arctanh", negatives=keras_tfcl.ReweightedNegatives(1.0, 0.1)),
}


def batch(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 2, 5)).astype("float32")
    if kind == "identical_views":
        x[:, 1] = x[:, 0]
    elif kind == "duplicated_rows":
        x[3] = x[0]
    elif kind == "antipodal_views":
        x[:, 1] = -x[:, 0]
    elif kind == "antipodal_rows":
        x[3] = -x[0]
    elif kind == "all_equal":
        x[:] = x[0, 0]
    elif kind == "zero_row":
        x[2, 1] = 0.0
    return x


@parametrize_with_checks(LOSSES, only=["poles"])
def test_finite_value_and_gradient(loss, check):
    check(loss)


@pytest.mark.parametrize(
    "kind", ["identical_views", "duplicated_rows", "antipodal_views", "antipodal_rows", "all_equal"]
)
def test_arctanh_poles_against_numpy(kind):
    expected = reference.contrastive_loss(np.arange(6), batch(kind), arctanh_scale=2.0)
    value, gradient = value_and_gradient(keras_tfcl.ArctanhInfoNCE(), batch(kind))
    np.testing.assert_allclose(value, expected.losses.mean(), rtol=1e-5)
    assert np.abs(gradient - expected.gradient).max() <= 1e-5 * max(np.abs(expected.gradient).max(), 1e-3)


@pytest.mark.parametrize("negatives", [1, 10, 254])
def test_gradient_of_the_positive_at_the_pole_is_its_limit(negatives):
    """losses.md 3.2 for scale 2: as s+ -> 1 with the negatives' weights summing to Z, dL/ds+ -> -Z/2."""
    rng = np.random.default_rng(0)
    s = np.concatenate([[1.0], rng.uniform(-0.9, 0.3, negatives)])[None]
    z = ((1 + s[0, 1:]) / (1 - s[0, 1:])).sum()
    positive = np.arange(negatives + 1)[None] == 0
    pairs = keras_tfcl.ops.Pairs(tf.constant(positive), tf.constant(~positive))
    ops = keras_tfcl.ops
    gradient = value_and_derivative(lambda s: ops.info_nce_from_logits(ops.arctanh_logits(s), pairs).loss, s)[1][0, 0]
    assert gradient == pytest.approx(-z / 2, rel=1e-3)
    # 1e-6 is the documented shift of the pole: with it the derivative is exactly this.
    shift, floor = 1e-6, 2 + 1e-6
    shifted = ((1 + s[0, 1:] + shift) / (1 - s[0, 1:] + shift)).sum()
    exact = -shifted / (floor / shift + shifted) * (1 / shift + 1 / floor)
    assert gradient == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("angle", [1e-4, 1e-3, 1e-2, 0.1])
def test_near_duplicate_negatives_repel(angle):
    """A clip would give pairs this close no gradient at all."""
    x = batch("none")
    x[3, 0] = x[0, 0] / np.linalg.norm(x[0, 0])
    sideways = np.linalg.svd(x[3, 0][None])[2][1].astype("float32")
    x[0, 0] = x[3, 0] * np.cos(angle) + sideways * np.sin(angle)
    _, gradient = value_and_gradient(keras_tfcl.ArctanhInfoNCE(), x)
    away = -gradient[0, 0] @ sideways  # descent moves row 0 further to the side
    assert away > 1.0


@pytest.mark.parametrize("s", [1.0, -1.0, 1.0000002, -1.0000002])
def test_logits_beyond_the_poles_are_those_of_the_poles(s):
    logits, slopes = value_and_derivative(keras_tfcl.ops.arctanh_logits, np.array([s], "float32"))
    np.testing.assert_allclose(np.abs(logits), np.log(2e6 + 1), rtol=1e-2)
    np.testing.assert_allclose(slopes, 1e6, rtol=0.1)  # float32: 1 + 1e-6 is 1 + 9.5e-7


@keras.saving.register_keras_serializable(package="tests")
class Angle(keras_tfcl.Scaling):
    """Its slope is infinite at a cosine of 1, where only an embedding and itself are."""

    def __call__(self, similarity):
        return -5 * keras.ops.arccos(similarity)


@pytest.mark.parametrize("block_size", ["dense", 4])
@pytest.mark.parametrize("negatives", ["all", keras_tfcl.ReweightedNegatives(0.0)], ids=["all", "reweighted"])
def test_a_pole_of_an_own_scaling_is_not_reached_by_an_embedding_and_itself(block_size, negatives):
    z = batch("random").astype("float64")

    def naive(z):
        units = z.reshape(12, 5) / np.linalg.norm(z.reshape(12, 5), axis=1, keepdims=True)
        logits = -5 * np.arccos(np.clip(units @ units.T, -1, 1))
        np.fill_diagonal(logits, -np.inf)
        rows = np.arange(12)
        return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[rows, rows ^ 1])

    loss = keras_tfcl.ContrastiveLoss(Angle(), negatives, block_size=block_size)
    value, gradient = value_and_gradient(loss, z)
    steps = 1e-6 * np.eye(z.size).reshape(-1, *z.shape)
    expected = np.reshape([(naive(z + step) - naive(z - step)) / 2e-6 for step in steps], z.shape)
    np.testing.assert_allclose(value, naive(z), rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def test_zero_row_counts_as_orthogonal_and_can_leave_zero():
    x = batch("zero_row")
    expected = reference.contrastive_loss(np.arange(6), x, temperature=0.1)
    value, gradient = value_and_gradient(keras_tfcl.InfoNCE(0.1), x)
    np.testing.assert_allclose(value, expected.losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(gradient, expected.gradient, atol=1e-5 * np.abs(expected.gradient).max())
    assert np.abs(gradient[2, 1]).max() > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", LOSSES)
def test_not_finite(name, bad):
    """Outside tf.function: an error that names the row. Inside: NaN, for every choice of negatives."""
    x = batch("none")
    x[4, 0, 2] = bad
    with pytest.raises(ValueError, match=r"NaN or Inf in 1 of 6 rows, the first is row 4.*learning rate"):
        LOSSES[name](np.arange(6), x)
    assert np.isnan(tf.function(LOSSES[name])(np.arange(6), tf.constant(x)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", [*LOSSES, "hard_simple"])
def test_not_finite_where_only_negatives_would_notice(name, bad):
    """A row without positive has no loss, and comparisons with NaN drop it from the hardest: the loss is NaN still."""
    hard_simple = keras_tfcl.SimpleContrastiveLoss(negatives=keras_tfcl.HardNegatives(top_k=2))
    loss = {**LOSSES, "hard_simple": hard_simple}[name]
    x = batch("none")[:, 0]
    x[5, 2] = bad
    assert np.isnan(tf.function(loss)(np.array([0, 0, 1, 1, 1, 2]), tf.constant(x)))


@pytest.mark.parametrize("reduction", ["sum", "mean", "mean_with_sample_weight", None])
def test_not_finite_where_no_anchor_has_a_positive(reduction):
    x = batch("none")[:, 0]
    x[5, 2] = np.nan
    assert np.isnan(tf.function(keras_tfcl.InfoNCE(reduction=reduction))(np.arange(6), tf.constant(x))).all()


def test_a_batch_without_positives_warns_once():
    loss, x = keras_tfcl.InfoNCE(0.1), batch("none")[:, 0]
    with pytest.warns(UserWarning, match="no embedding of this batch has a positive") as caught:
        assert loss(np.arange(6), x) == loss(np.arange(6), x) == 0
    assert len(caught) == 1


@pytest.mark.parametrize("block_size", ["dense", 4])
def test_no_negative_at_all(block_size):
    """A decoupled loss has then nothing to say, and says what is missing."""
    loss = keras_tfcl.DecoupledInfoNCE(block_size=block_size)
    with pytest.warns(
        UserWarning, match="no embedding of this batch has a positive and a negative .another label., so"
    ):
        value, gradient = value_and_gradient(loss, batch("none"), np.zeros(6, int))
    assert value == 0
    assert (gradient == 0).all()


def test_one_instance():
    """Two views: a positive and no negative, so nothing to tell apart: log 1. One view: no positive."""
    x = batch("none")
    value, gradient = value_and_gradient(keras_tfcl.InfoNCE(0.1), x[:1])
    assert value == pytest.approx(0, abs=1e-6)
    assert np.isfinite(gradient).all()
    with pytest.warns(UserWarning, match="no embedding of this batch has a positive"):
        assert keras_tfcl.InfoNCE(0.1)(np.arange(1), x[:1, 0]) == 0
    with pytest.warns(UserWarning, match="no embedding of this batch has a positive"):
        assert keras_tfcl.InfoNCE(0.1, decoupled=True)(np.arange(1), x[:1]) == 0  # no denominator is left
