"""Value and gradient of every loss against double loops in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import value_and_derivative, value_and_gradient
from keras_tfcl.testing import reference
from keras_tfcl.testing import reference_family as family

B = 6
LABELS = {
    "rows": np.arange(B),
    "two_each": np.array([5, 5, -3, -3, 9, 9]),
    "some_alone": np.array([1, 1, 1, 2, 3, 3]),
    "one_class": np.zeros(B, int),
}
hard = keras_tfcl.HardNegatives
REWEIGHTED = {
    "hcl": (0.5, (1.0, 0.1), {"temperature": 0.5, "beta": 1.0, "tau_plus": 0.1}),
    "hcl_2": (0.3, (2.0, 0.0), {"temperature": 0.3, "beta": 2.0}),
    "detached": (0.3, (2.0, 0.1, True), {"temperature": 0.3, "beta": 2.0, "tau_plus": 0.1, "detach": True}),
    "debiased": (0.5, (0.0, 0.1), {"temperature": 0.5, "tau_plus": 0.1}),
    "clamped": (0.5, (0.0, 0.6), {"temperature": 0.5, "tau_plus": 0.6}),
}
# The loss, its reference, and the options of the reference.
INFO_NCE = {
    "infonce": (keras_tfcl.InfoNCE(0.1), {"temperature": 0.1}),
    "arctanh": (keras_tfcl.ArctanhInfoNCE(), {"arctanh_scale": 2.0}),
    "arctanh_1": (keras_tfcl.ArctanhInfoNCE(scale=1.0), {"arctanh_scale": 1.0}),
    "hard_alpha": (keras_tfcl.HardNegativeInfoNCE(0.3, alpha=0.4), {"temperature": 0.3, "alpha": 0.4}),
    "hard_top_k": (keras_tfcl.HardNegativeInfoNCE(0.3, top_k=2), {"temperature": 0.3, "top_k": 2}),
    "hard_arctanh": (keras_tfcl.HardNegativeInfoNCE(None, top_k=3), {"arctanh_scale": 2.0, "top_k": 3}),
    "decoupled": (keras_tfcl.DecoupledInfoNCE(0.2), {"temperature": 0.2, "decoupled": True}),
    "scheduled": (keras_tfcl.ContrastiveLoss(keras_tfcl.ScheduledTemperature(0.2)), {"temperature": 0.2}),
}
LOSSES = {
    **{name: (loss, reference.contrastive_loss, options) for name, (loss, options) in INFO_NCE.items()},
    **{
        name: (
            keras_tfcl.ContrastiveLoss(temperature, keras_tfcl.ReweightedNegatives(*arguments)),
            family.reweighted_loss,
            options,
        )
        for name, (temperature, arguments, options) in REWEIGHTED.items()
    },
    "simple": (keras_tfcl.SimpleContrastiveLoss(), family.simple_loss, {}),
    "simple_weight": (keras_tfcl.SimpleContrastiveLoss(0.2), family.simple_loss, {"weight": 0.2}),
    "hard_simple": (keras_tfcl.SimpleContrastiveLoss(negatives=hard(top_k=2)), family.simple_loss, {"top_k": 2}),
    "hard_simple_alpha": (
        keras_tfcl.SimpleContrastiveLoss(0.5, hard(alpha=0.4)),
        family.simple_loss,
        {"weight": 0.5, "alpha": 0.4},
    ),
    "hard_simple_guarded": (  # a guard that leaves nothing out
        keras_tfcl.SimpleContrastiveLoss(negatives=keras_tfcl.WithoutNearDuplicates(1e-9, hard(top_k=2))),
        family.simple_loss,
        {"top_k": 2},
    ),
    "sigmoid": (keras_tfcl.SigmoidContrastiveLoss(), family.sigmoid_loss, {"scale": 10.0, "bias": -10.0}),
    "sigmoid_fixed": (
        keras_tfcl.SigmoidContrastiveLoss(4.0, -1.0, learnable=False),
        family.sigmoid_loss,
        {"scale": 4.0, "bias": -1.0},
    ),
    "dclw": (
        keras_tfcl.DecoupledInfoNCE(0.2, sigma=0.5),
        family.weighted_decoupled_loss,
        {"temperature": 0.2, "sigma": 0.5},
    ),
}


def embeddings(views, size=8):
    shape = (B, size) if views == 1 else (B, views, size)
    return tf.constant(np.random.default_rng(0).normal(size=shape), "float32")


def check(loss, function, options, labels, x, weights=None):
    """Value and gradient, with a weight for each sample."""
    weights = np.ones(B) if weights is None else weights
    shaped = np.broadcast_to(weights.reshape(B, *[1] * (len(x.shape) - 2)), x.shape[:-1])
    expected = function(labels, x.numpy(), weights=shaped, **options)
    value, gradient = value_and_gradient(loss, x, labels, weights)
    mean = (expected.losses * shaped).sum() / max(expected.valid.sum(), 1)
    np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-6)
    assert np.abs(gradient - expected.gradient).max() <= 1e-5 * max(np.abs(expected.gradient).max(), 1e-3)


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.filterwarnings("ignore:.*no embedding of this batch has a positive")  # rows with one view
def test_views_labels_and_weights(name, labels, views):
    check(*LOSSES[name], LABELS[labels], embeddings(views), np.linspace(0.0, 2.0, B))


@pytest.mark.parametrize("size", [2, 512])
@pytest.mark.parametrize("name", INFO_NCE)
def test_embedding_sizes(name, size):
    check(*LOSSES[name], LABELS["rows"], embeddings(2, size))


@pytest.mark.parametrize("temperature", [1e-3, 3e-3, 0.01, 0.07, 0.5, 1.0, 10.0])
@pytest.mark.parametrize("labels", ["rows", "some_alone"])
def test_temperatures(temperature, labels):
    loss, options = keras_tfcl.InfoNCE(temperature), {"temperature": temperature}
    check(loss, reference.contrastive_loss, options, LABELS[labels], embeddings(2, 16))


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("labels", ["rows", "two_each"])
@pytest.mark.parametrize("name", ["infonce", "simple", "sigmoid", "hcl"])
def test_cross_view_only(name, labels, views):
    loss, function, options = LOSSES[name]
    loss = type(loss).from_config({**loss.get_config(), "cross_view_only": True})
    check(loss, function, {**options, "cross_view_only": True}, LABELS[labels], embeddings(views))


def test_cross_view_only_is_clip():
    """With two views: the mean of both directions' cross-entropies of the similarity matrix."""
    x = embeddings(2).numpy().astype("float64")
    u = x / np.linalg.norm(x, axis=-1, keepdims=True)
    logits = u[:, 0] @ u[:, 1].T / 0.1
    rows = np.diag(logits) - np.log(np.exp(logits).sum(1))
    columns = np.diag(logits) - np.log(np.exp(logits).sum(0))
    value = keras_tfcl.InfoNCE(0.1, cross_view_only=True)(np.arange(B), x)
    np.testing.assert_allclose(value, -(rows.mean() + columns.mean()) / 2, rtol=1e-6)


def test_plain_encoder_learns_through_fit():
    """encoder.compile(loss=InfoNCE()); encoder.fit(x, labels), with no ContrastiveModel."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 128)
    x = (rng.normal(size=(4, 16))[labels] + rng.normal(size=(128, 16))).astype("float32")
    encoder = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8)])
    encoder.compile(keras.optimizers.Adam(0.01), loss=keras_tfcl.InfoNCE(0.5), jit_compile=True)
    history = encoder.fit(x, labels, batch_size=64, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0] - 0.2


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
        return family.sigmoid_loss(np.arange(6), embeddings(2).numpy(), **options).losses.mean()

    start = (np.log(5.0), -2.0)
    steps = [(1e-6, 0.0), (0.0, 1e-6)]
    expected = [(mean(start[0] + a, start[1] + b) - mean(start[0] - a, start[1] - b)) / 2e-6 for a, b in steps]
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_dynamic_temperature_is_the_published_formula():
    """DySTreSS: t = min + (max - min)/2 (1 + cos(pi (1 + s))), held constant in the gradient."""
    s = np.linspace(-1, 1, 41)
    logits, derivatives = value_and_derivative(keras_tfcl.DynamicTemperature(0.07, 0.2), s)
    t = 0.07 + 0.13 / 2 * (1 + np.cos(np.pi * (1 + s)))
    np.testing.assert_allclose(logits, s / t, rtol=1e-12)
    np.testing.assert_allclose(derivatives, 1 / t, rtol=1e-12)


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


def test_candidates_with_the_same_label_are_never_negatives():
    """A candidate with the anchor's label is a positive only, however near it is and whatever the negatives are."""
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
