"""Simple, sigmoid, decoupled and reweighted losses, value and gradient, against double loops in float64."""

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import value_and_derivative, value_and_gradient
from keras_tfcl.testing import reference, reference_family

LABELS = {
    "rows": np.arange(6),
    "two_each": np.array([5, 5, -3, -3, 9, 9]),
    "some_alone": np.array([1, 1, 1, 2, 3, 3]),
    "one_class": np.zeros(6, int),
}
CASES = {
    "hcl": (0.5, (1.0, 0.1), {"temperature": 0.5, "beta": 1.0, "tau_plus": 0.1}),
    "hcl_2": (0.3, (2.0, 0.0), {"temperature": 0.3, "beta": 2.0}),
    "detached": (0.3, (2.0, 0.1, True), {"temperature": 0.3, "beta": 2.0, "tau_plus": 0.1, "detach": True}),
    "debiased": (0.5, (0.0, 0.1), {"temperature": 0.5, "tau_plus": 0.1}),
    "clamped": (0.5, (0.0, 0.6), {"temperature": 0.5, "tau_plus": 0.6}),
}
hard = keras_tfcl.HardNegatives
LOSSES = {
    **{
        name: (
            keras_tfcl.ContrastiveLoss(t, negatives=keras_tfcl.ReweightedNegatives(*arguments)),
            reference_family.reweighted_loss,
            options,
        )
        for name, (t, arguments, options) in CASES.items()
    },
    "simple": (keras_tfcl.SimpleContrastiveLoss(), reference_family.simple_loss, {}),
    "simple_weight": (keras_tfcl.SimpleContrastiveLoss(0.2), reference_family.simple_loss, {"weight": 0.2}),
    "hard_simple": (
        keras_tfcl.SimpleContrastiveLoss(negatives=hard(top_k=2)), reference_family.simple_loss, {"top_k": 2}
    ),
    "hard_simple_alpha": (
        keras_tfcl.SimpleContrastiveLoss(0.5, hard(alpha=0.4)),
        reference_family.simple_loss,
        {"weight": 0.5, "alpha": 0.4},
    ),
    "sigmoid": (keras_tfcl.SigmoidContrastiveLoss(), reference_family.sigmoid_loss, {"scale": 10.0, "bias": -10.0}),
    "sigmoid_fixed": (
        keras_tfcl.SigmoidContrastiveLoss(4.0, -1.0, learnable=False),
        reference_family.sigmoid_loss,
        {"scale": 4.0, "bias": -1.0},
    ),
    "hard_simple_guarded": (  # a guard that leaves nothing out
        keras_tfcl.SimpleContrastiveLoss(negatives=keras_tfcl.WithoutNearDuplicates(1e-9, hard(top_k=2))),
        reference_family.simple_loss,
        {"top_k": 2},
    ),
    "dcl": (keras_tfcl.DecoupledInfoNCE(0.2), reference.contrastive_loss, {"temperature": 0.2, "decoupled": True}),
    "dclw": (
        keras_tfcl.DecoupledInfoNCE(0.2, sigma=0.5),
        reference_family.weighted_decoupled_loss,
        {"temperature": 0.2, "sigma": 0.5},
    ),
    "scheduled": (
        keras_tfcl.ContrastiveLoss(keras_tfcl.ScheduledTemperature(0.2)),
        reference.contrastive_loss,
        {"temperature": 0.2},
    ),
}  # fmt: skip


def embeddings(views):
    shape = (6, 8) if views == 1 else (6, views, 8)
    return tf.constant(np.random.default_rng(0).normal(size=shape), "float32")


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.filterwarnings("ignore:.*no embedding of this batch has a positive")
def test_value_and_gradient(name, labels, views):
    loss, function, options = LOSSES[name]
    x, labels = embeddings(views), LABELS[labels]
    weights = np.linspace(0.5, 2.0, 6)
    shaped = weights if views == 1 else np.repeat(weights[:, None], views, axis=1)
    expected = function(labels, x.numpy(), weights=shaped, **options)
    value, gradient = value_and_gradient(loss, x, labels, weights)
    mean = (expected.losses * shaped).sum() / max(expected.valid.sum(), 1)
    np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6)
    assert np.abs(gradient - expected.gradient).max() <= 1e-5 * max(np.abs(expected.gradient).max(), 1e-3)


@pytest.mark.parametrize("name", ["simple", "sigmoid", "hcl"])
def test_cross_view_only(name):
    loss, function, options = LOSSES[name]
    loss = type(loss).from_config({**loss.get_config(), "cross_view_only": True})
    expected = function(LABELS["two_each"], embeddings(3).numpy(), cross_view_only=True, **options)
    np.testing.assert_allclose(loss(LABELS["two_each"], embeddings(3)), expected.losses.mean(), rtol=1e-5)


@pytest.mark.parametrize("block_size", ["dense", 4])
@pytest.mark.parametrize("views", [2, 3])
def test_cross_view_only_of_weighted_decoupled(views, block_size):
    """Every anchor has one positive and five negatives for each other view: -w s+ / t + log sum exp(s / t)."""
    loss = keras_tfcl.DecoupledInfoNCE(0.2, 0.5, cross_view_only=True, block_size=block_size, reduction=None)
    geometry = reference.Geometry(np.arange(6), embeddings(views).numpy(), cross_view_only=True)
    rows = [(geometry.cosines[i, p].mean(), geometry.cosines[i, n]) for i, p, n in geometry.anchors()]
    mean = np.exp([s / 0.5 for s, _ in rows]).mean()
    expected = [-(2 - np.exp(s / 0.5) / mean) * s / 0.2 + np.log(np.exp(n / 0.2).sum()) for s, n in rows]
    np.testing.assert_allclose(loss(np.arange(6), embeddings(views)), np.reshape(expected, (6, views)), rtol=1e-5)


def test_gradient_of_the_sigmoid_scale_and_bias():
    """By finite differences of the reference, in the logarithm of the scale."""
    loss = keras_tfcl.SigmoidContrastiveLoss(5.0, -2.0, dtype="float64")
    with tf.GradientTape() as tape:
        value = loss(np.arange(6), embeddings(2))
    variables = [loss.logits.log_scale, loss.logits.bias]
    ours = [float(g) for g in tape.gradient(value, [v.value for v in variables])]

    def mean(log_scale, bias):
        options = {"scale": np.exp(log_scale), "bias": bias}
        return reference_family.sigmoid_loss(np.arange(6), embeddings(2).numpy(), **options).losses.mean()

    start = (np.log(5.0), -2.0)
    steps = [(1e-6, 0.0), (0.0, 1e-6)]
    slopes = [(mean(start[0] + a, start[1] + b) - mean(start[0] - a, start[1] - b)) / 2e-6 for a, b in steps]
    np.testing.assert_allclose(ours, slopes, rtol=1e-4)


def test_dynamic_temperature_is_the_published_formula():
    """DySTreSS: t = min + (max - min)/2 (1 + cos(pi (1 + s))), held constant in the gradient."""
    s = np.linspace(-1, 1, 41)
    logits, slopes = value_and_derivative(keras_tfcl.DynamicTemperature(0.07, 0.2), s)
    t = 0.07 + 0.13 / 2 * (1 + np.cos(np.pi * (1 + s)))
    np.testing.assert_allclose(logits, s / t, rtol=1e-12)
    np.testing.assert_allclose(slopes, 1 / t, rtol=1e-12)


@pytest.mark.parametrize("ratio", [1.0, 2.9, 4.5])
def test_dynamic_logits_grow_with_the_cosine(ratio):
    logits = keras_tfcl.DynamicTemperature(0.1, 0.1 * ratio)(np.linspace(-1, 1, 20001)).numpy()
    assert (np.diff(logits) > 0).all()


def test_near_duplicates_are_left_out():
    """The guard is what removing those rows by hand would be; the hardest are chosen among the rest."""
    x = np.random.default_rng(2).normal(size=(8, 4))
    x[5], x[6] = x[0] * 3.0, x[1] + 1e-3  # copies under other labels
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    guard = keras_tfcl.WithoutNearDuplicates(0.01, keras_tfcl.HardNegatives(top_k=2))
    each = keras_tfcl.ContrastiveLoss(0.2, guard, reduction="none", dtype="float64")(labels, x).numpy()
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    s = u @ u.T
    for i in range(8):
        positive = next(j for j in range(8) if j != i and labels[j] == labels[i])
        rest = [s[i, j] for j in range(8) if labels[j] != labels[i] and s[i, j] < 0.99]
        terms = np.exp(np.array([s[i, positive], *sorted(rest)[-2:]]) / 0.2)
        assert each[i] == pytest.approx(np.log(terms.sum()) - s[i, positive] / 0.2, rel=1e-9)
    assert s[0, 5] > 0.99
    assert s[1, 6] > 0.99


def test_same_id_candidates_are_never_negatives():
    """Whatever the negatives: a candidate with the anchor's id, however near, changes nothing but the positives."""
    x = np.random.default_rng(3).normal(size=(6, 4))
    x[1] = x[0]
    labels = np.array([0, 0, 1, 1, 2, 2])
    similarity = np.ones((6, 6))
    for negatives in ("all", hard(top_k=6), keras_tfcl.ReweightedNegatives(), keras_tfcl.WithoutNearDuplicates()):
        kept = keras_tfcl.negatives.get(negatives).keep(similarity, labels[:, None] != labels)
        assert not np.asarray(kept)[labels[:, None] == labels].any()
    decoupled = keras_tfcl.DecoupledInfoNCE(0.2, reduction="none", dtype="float64")(labels, x).numpy()
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert decoupled[0] == pytest.approx(-1 / 0.2 + np.log(np.exp(u[2:] @ u[0] / 0.2).sum()), rel=1e-9)
