"""Roles, ignored and unlabelled classes, accidental hits and multi-hot labels, against NumPy in float64."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import keras_tfcl
from helpers.relations import IGNORED, UNLABELLED, masks
from keras_tfcl.ops import Candidates

SHIFT = 1e-6  # of the poles of arctanh, as the docstring of `Arctanh` says


def log_sum(x, mask):
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.where(mask, np.exp(x), 0.0), axis=1))


def mean(x, mask):
    return np.sum(np.where(mask, x, 0.0), axis=1) / np.maximum(mask.sum(1), 1)


def info_nce(s, fixed, positive, negative, temperature=0.3, logits=None):
    x = s / temperature if logits is None else logits
    return log_sum(x, positive | negative) - mean(x, positive), positive.any(1)


def arctanh(s, fixed, positive, negative):
    return info_nce(s, fixed, positive, negative, logits=np.log((1 + s + SHIFT) / (1 - s + SHIFT)))


def hard(s, fixed, positive, negative, logits=None):
    ranked = -np.sort(-np.where(negative, s, -2.0), axis=1)
    k = np.minimum(3, negative.sum(1))
    limit = ranked[np.arange(len(s)), np.maximum(k - 1, 0)]
    return info_nce(s, fixed, positive, negative & (s >= limit[:, None] - 1e-10), logits=logits)


def decoupled(s, fixed, positive, negative, weight=1.0):
    valid = positive.any(1) & negative.any(1)
    return np.where(valid, log_sum(s / 0.3, negative | ~valid[:, None]), 0) - weight * mean(s / 0.3, positive), valid


def weighted(s, fixed, positive, negative):
    valid = positive.any(1) & negative.any(1)
    e = np.exp(mean(fixed, positive) / 0.5)
    return decoupled(s, fixed, positive, negative, 2 - e / e[valid].mean() if valid.any() else 1.0)


def reweighted(s, fixed, positive, negative):
    x, some = s / 0.5, negative.any(1)
    counted = negative | ~some[:, None]
    hardness = log_sum(2 * x, counted) - log_sum(x, counted) + np.log(np.maximum(negative.sum(1), 1))
    rest = np.where(some, hardness, -np.inf)
    return np.logaddexp(rest, log_sum(x, positive)) - mean(x, positive), positive.any(1)


def simple(s, fixed, positive, negative):
    return mean(s, negative) - mean(s, positive), positive.any(1)


def sigmoid(s, fixed, positive, negative):
    x = 5 * s - 1
    terms = np.where(positive, np.logaddexp(0, -x), 0) + np.where(negative, np.logaddexp(0, x), 0)
    return terms.sum(1), positive.any(1)


def cosine_margin(s, fixed, positive, negative):
    return info_nce(s - 0.35 * positive, fixed, positive, negative)


def hard_angular_margin(s, fixed, positive, negative):
    angle = np.arccos(np.clip(s, -1, 1))
    shifted = np.where(angle + 0.5 <= np.pi, np.cos(angle + 0.5), s - 0.5 * np.sin(0.5))
    return hard(s, fixed, positive, negative, logits=np.where(positive, shifted, s) / 0.3)


LOSSES = {
    "infonce": (lambda **k: keras_tfcl.InfoNCE(0.3, **k), info_nce),
    "arctanh": (lambda **k: keras_tfcl.ArctanhInfoNCE(**k), arctanh),
    "hard": (lambda **k: keras_tfcl.HardNegativeInfoNCE(0.3, top_k=3, **k), hard),
    "decoupled": (lambda **k: keras_tfcl.DecoupledInfoNCE(0.3, **k), decoupled),
    "weighted": (lambda **k: keras_tfcl.DecoupledInfoNCE(0.3, sigma=0.5, **k), weighted),
    "reweighted": (lambda **k: keras_tfcl.ContrastiveLoss(0.5, keras_tfcl.ReweightedNegatives(1.0), **k), reweighted),
    "cosine_margin": (lambda **k: keras_tfcl.ContrastiveLoss(keras_tfcl.CosineMargin(0.3, 0.35), **k), cosine_margin),
    "hard_angular_margin": (
        lambda **k: keras_tfcl.ContrastiveLoss(
            keras_tfcl.AngularMargin(0.3, 0.5), keras_tfcl.HardNegatives(top_k=3), **k
        ),
        hard_angular_margin,
    ),
    "simple": (lambda **k: keras_tfcl.SimpleContrastiveLoss(**k), simple),
    "sigmoid": (lambda **k: keras_tfcl.SigmoidContrastiveLoss(5.0, -1.0, **k), sigmoid),
}
RULES = {
    "ignored": {"ignore_class": IGNORED},
    "ignored_across": {"ignore_class": IGNORED, "cross_view_only": True},
    "unlabelled": {"unlabelled_class": UNLABELLED},
    "unlabelled_across": {"unlabelled_class": UNLABELLED, "ignore_class": IGNORED, "cross_view_only": True},
    "accidental": {"same_label": "ignore"},
    "accidental_unlabelled": {"same_label": "ignore", "unlabelled_class": UNLABELLED, "ignore_class": IGNORED},
    "roles": {"roles": ("anchor", "positive", "negative")},
    "roles_accidental": {"roles": ("positive", "anchor", "negative"), "same_label": "ignore", "ignore_class": IGNORED},
    "roles_unlabelled": {"roles": ("anchor", "positive", "positive"), "unlabelled_class": UNLABELLED},
    "one_direction": {"roles": ("anchor", "positive")},
    "multi_hot": {},
}


def reference(formula, labels, z, rule):
    """Losses and valid anchors `(B, V)`, and the gradient of the mean over the valid anchors by differences."""
    positive, negative = masks(labels, rule, z.shape[1])

    def of(x):
        units = x.reshape(-1, x.shape[-1])
        units = units / np.linalg.norm(units, axis=1, keepdims=True)
        return units @ units.T

    def total(x):
        losses, valid = formula(of(x), of(z), positive, negative)
        return np.sum(np.where(valid, losses, 0.0)) / max(valid.sum(), 1)

    losses, valid = formula(of(z), of(z), positive, negative)
    gradient = np.zeros_like(z)
    for at in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[at] = 1e-5
        gradient[at] = (total(z + step) - total(z - step)) / 2e-5
    shape = z.shape[:2]
    return np.where(valid, losses, 0.0).reshape(shape), valid.reshape(shape), gradient


def order_of(rule, views):
    """The views in the order of the losses."""
    roles = rule.get("roles")
    if not roles:
        return list(range(views))
    of = ("anchor", "positive") if rule.get("symmetric") else ("anchor",)
    return [v for role in of for v in range(views) if roles[v] == role]


def data(seed, rule, several=False, samples=7):
    rng = np.random.default_rng(seed)
    views = len(rule["roles"]) if "roles" in rule else rng.integers(2, 4)
    z = rng.normal(size=(samples, views, 4)) * rng.uniform(0.5, 2, (samples, views, 1))
    if several:
        return rng.integers(0, 2, (samples, 3)) * (rng.uniform(size=(samples, 1)) < 0.8), z
    return rng.choice([IGNORED, UNLABELLED, 0, 1, 2], samples), z


def assert_equals_the_reference(name, rule, labels, z, block):
    make, formula = LOSSES[name]
    expected, valid, gradient = reference(formula, labels, z, rule)
    loss = make(block_size=block, dtype="float64", **rule)
    loss = type(loss).from_config(loss.get_config())  # the configuration holds the rule
    x = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(labels, x)
    order = order_of(rule, z.shape[1])
    expected, count = expected[:, order], max(valid[:, order].sum(), 1)
    np.testing.assert_allclose(value, expected.sum() / count, rtol=1e-6, atol=1e-9)
    received = tape.gradient(value, x)
    received = np.zeros_like(z) if received is None else received.numpy()
    np.testing.assert_allclose(received, gradient, rtol=1e-4, atol=2e-6)
    each = loss.call(labels, x).numpy()
    np.testing.assert_allclose(each.reshape(len(z), -1), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*no embedding of this batch")
@pytest.mark.parametrize("block", ["dense", 8])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_numpy(name, block):
    chosen = RULES if name == "infonce" else ("accidental_unlabelled", "roles_accidental", "multi_hot")
    for seed, rule in enumerate(chosen):
        labels, z = data(seed, RULES[rule], several=rule == "multi_hot")
        assert_equals_the_reference(name, RULES[rule], labels, z, block)


SETTINGS = hypothesis.settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)


@pytest.mark.filterwarnings("ignore:.*no embedding of this batch")
@SETTINGS
@hypothesis.given(
    st.integers(0, 2**31),
    st.sampled_from(sorted(RULES)),
    st.sampled_from(sorted(LOSSES)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["dense", 5, 64]),
    st.integers(2, 9),
)
def test_equals_numpy_at_random(seed, rule, name, several, symmetric, block, samples):
    rule = dict(RULES[rule])
    several = several and not {"ignore_class", "unlabelled_class"} & rule.keys()
    if "roles" in rule and name != "weighted":  # its mean weight is the mean over one direction
        rule["symmetric"] = symmetric
    assert_equals_the_reference(name, rule, *data(seed, rule, several, samples), block)


@pytest.mark.parametrize("rule", ["accidental_unlabelled", "unlabelled_across", "roles_accidental"])
@pytest.mark.parametrize("jit", [False, True])
def test_compiled_steps_of_any_batch_size(rule, jit):
    rule = RULES[rule]
    labels, z = data(3, rule, samples=9)
    loss = keras_tfcl.InfoNCE(0.3, block_size=4, **rule)
    signature = None if jit else [tf.TensorSpec([None], "int64"), tf.TensorSpec([None, *z.shape[1:]], "float32")]
    step = tf.function(loss, jit_compile=jit, input_signature=signature)
    np.testing.assert_allclose(step(tf.constant(labels), tf.constant(z, "float32")), loss(labels, z), rtol=1e-5)


def test_padding_changes_nothing():
    labels, z = np.array([4, 4, 5, 6]), np.random.default_rng(0).normal(size=(4, 2, 8))
    padded = np.append(labels, [-1, -1]), np.concatenate([z, np.ones((2, 2, 8))])
    assert keras_tfcl.InfoNCE(ignore_class=-1)(*padded) == keras_tfcl.InfoNCE()(labels, z)


def test_one_hot_labels_are_labels():
    labels, z = np.array([0, 1, 0, 2]), np.random.default_rng(0).normal(size=(4, 2, 8)).astype("float32")
    for one_hot in (np.eye(3)[labels], np.eye(3, dtype="int32")[labels]):
        np.testing.assert_allclose(keras_tfcl.InfoNCE()(one_hot, z), keras_tfcl.InfoNCE()(labels, z), rtol=1e-6)


@pytest.mark.parametrize("rule", [name for name in RULES if "across" not in name])
def test_given_candidates_equal_the_batch(rule):
    """The batch itself as candidates, with a key of an earlier step behind it that is masked."""
    rule = RULES[rule]
    labels, z = data(5, rule)
    samples, views, features = z.shape
    numbers = np.arange(samples * views)
    batch = Candidates(
        z.reshape(-1, features), labels.repeat(views), numbers, numbers % views, samples=numbers // views
    )
    queue = Candidates(
        np.ones((2, features)), np.array([0, UNLABELLED]), views=np.array([0, 1]), mask=np.zeros(2, bool)
    )
    for block in ("dense", 5):
        loss = keras_tfcl.InfoNCE(0.3, block_size=block, **rule)
        value = loss.against(labels, z, batch.concat(queue))
        np.testing.assert_allclose(value, loss(labels, z), rtol=1e-6)


def test_unlabelled_keys_of_a_queue_are_negatives_of_all():
    z = np.random.default_rng(0).normal(size=(3, 2, 4))
    labels = np.array([UNLABELLED, 1, 1])
    numbers = np.arange(6)
    batch = Candidates(z.reshape(6, 4), labels.repeat(2), numbers, numbers % 2, samples=numbers // 2)
    queue = np.random.default_rng(1).normal(size=(2, 4))
    loss = keras_tfcl.InfoNCE(0.3, unlabelled_class=UNLABELLED)
    losses = [
        loss.against(labels, z, batch.concat(Candidates(queue, np.array(keys)))) for keys in ([UNLABELLED] * 2, [8, 9])
    ]
    assert losses[0] == losses[1]


def test_anchors_that_are_no_candidates_share_no_sample_with_candidates_of_none():
    z, others = np.random.default_rng(0).normal(size=(3, 2, 4)), np.random.default_rng(1).normal(size=(4, 4))
    labels, theirs = np.eye(3, 5, dtype="int64"), np.eye(4, 5, dtype="int64")
    loss = keras_tfcl.InfoNCE(0.3, reduction=None)
    of_none = loss.against(labels, z, Candidates(others, theirs, samples=np.full(4, -1)))
    np.testing.assert_array_equal(of_none, loss.against(labels, z, Candidates(others, theirs)))


def test_an_unlabelled_anchor_that_is_no_candidate_has_no_positive():
    """The label that replaces its own must not be the one of views in the role of negatives."""
    z, numbers = np.random.default_rng(0).normal(size=(3, 3, 4)), np.arange(9)
    keys = Candidates(z.reshape(9, 4), np.repeat([4, 5, 6], 3), np.full(9, -1), views=numbers % 3, samples=numbers // 3)
    loss = keras_tfcl.InfoNCE(
        0.3, roles=("anchor", "positive", "negative"), unlabelled_class=UNLABELLED, reduction=None
    )
    losses = loss.against(np.array([UNLABELLED, 5, 6]), z, keys).numpy()
    assert losses[0] == 0
    assert (losses[1:] > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roles": ("anchor", "negative")}, "with an anchor and a positive"),
        ({"roles": ("anchor", "positiv")}, "with an anchor and a positive"),
        ({"roles": "anchor"}, "with an anchor and a positive"),
        ({"roles": ("anchor", "positive"), "cross_view_only": True}, "Leave out cross_view_only"),
        ({"symmetric": True}, "Pass roles="),
        ({"same_label": "negative"}, "`same_label` must be"),
        ({"ignore_class": 1.5}, "`ignore_class` must be"),
        ({"unlabelled_class": True}, "`unlabelled_class` must be"),
        ({"unlabelled_class": -1, "ignore_class": -1}, "must differ"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_tfcl.InfoNCE(**arguments)


@pytest.mark.parametrize(
    ("arguments", "labels", "shape", "message"),
    [
        ({"roles": ("anchor", "positive")}, np.arange(4), (4, 3, 5), r"shape \(B, 2, D\)"),
        ({"roles": ("anchor", "positive")}, np.arange(4), (4, 5), r"shape \(B, 2, D\)"),
        ({"ignore_class": -1}, np.eye(4), (4, 2, 5), "multi-hot"),
        ({"unlabelled_class": -1}, np.eye(4), (4, 2, 5), "multi-hot"),
        ({}, np.arange(8).reshape(4, 2), (4, 2, 5), "0 or 1"),
    ],
)
def test_data_that_is_refused(arguments, labels, shape, message):
    with pytest.raises(ValueError, match=message):
        keras_tfcl.InfoNCE(**arguments)(labels, np.ones(shape))


@pytest.mark.parametrize("loss", [keras_tfcl.InfoNCE(), keras_tfcl.InfoNCE(same_label="ignore")])
def test_labels_that_are_not_multi_hot_make_the_loss_nan_in_a_graph(loss):
    z = np.random.default_rng(0).normal(size=(4, 2, 5)).astype("float32")
    compute = tf.function(lambda labels: loss(labels, z))
    assert np.isfinite(compute(np.array([[0, 1], [1, 0], [1, 1], [0, 1]])))
    assert np.isnan(compute(np.arange(8).reshape(4, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roles": ("anchor", "positive")}, "view of each candidate"),
        ({"same_label": "ignore"}, "samples=..."),
        ({"unlabelled_class": 3}, "samples=..."),
    ],
)
def test_candidates_that_are_refused(arguments, message):
    candidates = Candidates(np.ones((8, 5)), np.arange(8))
    with pytest.raises(ValueError, match=message):
        keras_tfcl.InfoNCE(**arguments).against(np.arange(4), np.ones((4, 2, 5)), candidates)


def test_a_saved_loss_keeps_its_rule():
    loss = keras_tfcl.InfoNCE(roles=("anchor", "positive", "negative"), symmetric=True, ignore_class=-1)
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert loaded.get_config() == loss.get_config()
    assert loaded.rule.roles == ("anchor", "positive", "negative")
