"""Losses of anchors compared with given candidates (queues, replicas), against double loops in float64."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.batches import unit
from keras_tfcl import losses
from keras_tfcl.ops import Candidates, contrastive_loss

RNG = np.random.default_rng(0)
VIEWS, B, D = 2, 3, 4
Z = RNG.normal(size=(B, VIEWS, D))
LABELS = np.array([5, 9, 5])
MORE = RNG.normal(size=(6, D))
MASK = np.array([True] * 6 + [True, False, True, True, False, True])


def candidates(z=Z, more=MORE, mask=MASK, self_index=(0, 1, 2, 3, 4, 5), views="int32"):
    """The anchors themselves and six others, two of which are places that hold nothing."""
    return Candidates(
        tf.concat([tf.reshape(z, [-1, D]), more], 0),
        np.array([5, 5, 9, 9, 5, 5, 9, 9, 5, 7, 7, 8], "int64"),
        None if self_index is None else np.array(self_index, "int32"),
        np.array([0, 1] * 6, views),
        mask,
    )


def naive(z, more, rule, mask=MASK, self_index=(0, 1, 2, 3, 4, 5), cross_view_only=False):
    """The loss of each anchor by `rule(positives' cosines, negatives' cosines)`, 0 without positive."""
    labels = [5, 5, 9, 9, 5, 5, 9, 9, 5, 7, 7, 8]
    others = unit(np.concatenate([z.reshape(-1, D), more]))
    result = []
    for a, anchor in enumerate(unit(z.reshape(-1, D))):
        positives, negatives = [], []
        for c, other in enumerate(others):
            left_out = self_index is not None and self_index[a] == c
            if left_out or not mask[c] or (cross_view_only and a % 2 == c % 2):
                continue
            (positives if labels[c] == LABELS[a // 2] else negatives).append(float(anchor @ other))
        result.append(rule(positives, negatives) if positives else 0.0)
    return np.array(result)


def info_nce(logit, keep=lambda negatives: negatives, decoupled=False):
    def rule(positives, negatives):
        negatives = keep(negatives)
        total = sum(math.exp(logit(s)) for s in negatives + ([] if decoupled else positives))
        return math.log(total) - sum(map(logit, positives)) / len(positives)

    return rule


def arctanh(s):
    return math.log((1 + s + 1e-6) / (1 - s + 1e-6))


def temperature(s):
    return s / 0.2


def hardest(negatives, k=2):
    return sorted(negatives, reverse=True)[:k]


def reweighted(positives, negatives):
    """HCL with beta 0.5, tau_plus 0.1."""
    e = [math.exp(s / 0.5) for s in negatives]
    weights = [x**0.5 for x in e]
    total = sum(w * x for w, x in zip(weights, e, strict=True)) / (sum(weights) / len(e))
    positive = sum(math.exp(s / 0.5) for s in positives) / len(positives)
    total = max((total - 0.1 * len(e) * positive) / 0.9, len(e) * math.exp(-1 / 0.5))
    both = total + sum(math.exp(s / 0.5) for s in positives)
    return math.log(both) - sum(s / 0.5 for s in positives) / len(positives)


def simple(positives, negatives):
    return sum(negatives) / len(negatives) - sum(positives) / len(positives)


def sigmoid(positives, negatives):
    def softplus(x):
        return math.log1p(math.exp(x))

    return sum(softplus(-(10 * s - 10)) for s in positives) + sum(softplus(10 * s - 10) for s in negatives)


HCL = keras_tfcl.ReweightedNegatives(beta=0.5, tau_plus=0.1)
TILED = [
    (losses.InfoNCE, {"temperature": 0.2}, info_nce(temperature)),
    (losses.ArctanhInfoNCE, {}, info_nce(arctanh)),
    (losses.HardNegativeInfoNCE, {"temperature": 0.2, "top_k": 2}, info_nce(temperature, hardest)),
    (losses.ContrastiveLoss, {"scaling": 0.5, "negatives": HCL}, reweighted),
    (losses.DecoupledInfoNCE, {"temperature": 0.2}, info_nce(temperature, decoupled=True)),
]
DENSE = [(losses.SimpleContrastiveLoss, {}, simple), (losses.SigmoidContrastiveLoss, {}, sigmoid)]
CASES = [(cls, {**options, "block_size": size}, rule) for cls, options, rule in TILED for size in ("dense", 4)]
NAMES = {"ids": lambda value: getattr(value, "__name__", None)}
each_loss = pytest.mark.parametrize(("cls", "options", "rule"), CASES + DENSE, **NAMES)
each_loss_once = pytest.mark.parametrize(("cls", "options", "rule"), CASES[1::2] + DENSE, **NAMES)


@each_loss
@pytest.mark.parametrize("cross_view_only", [False, True])
def test_value_and_gradient(cls, options, rule, cross_view_only):
    """Every anchor's loss, and the gradient of their weighted sum in anchors and candidates, by finite differences."""
    loss = cls(**options, cross_view_only=cross_view_only, reduction="none", dtype="float64")
    weights = np.arange(1, 7).reshape(B, VIEWS) / 6
    z, more = tf.constant(Z), tf.constant(MORE)
    with tf.GradientTape() as tape:
        tape.watch([z, more])
        result = loss.against(LABELS, z, candidates(z, more), weights)
    np.testing.assert_allclose(
        result, weights * naive(Z, MORE, rule, cross_view_only=cross_view_only).reshape(B, VIEWS), rtol=1e-6, atol=1e-9
    )

    def total(z, more):
        return (weights.ravel() * naive(z, more, rule, cross_view_only=cross_view_only)).sum()

    for gradient, moved in zip(tape.gradient(result, [z, more]), range(2), strict=True):
        for index in np.ndindex(*gradient.shape):
            step = np.zeros(tuple(gradient.shape))
            step[index] = 1e-6
            ends = [total(Z + sign * step, MORE) if moved == 0 else total(Z, MORE + sign * step) for sign in (1, -1)]
            assert float(gradient[index]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)


@each_loss
def test_empty_places_are_never_compared(cls, options, rule):
    loss = cls(**options, dtype="float64")
    other = np.where(MASK[6:, None], MORE, 1e3)
    assert float(loss.against(LABELS, Z, candidates())) == float(loss.against(LABELS, Z, candidates(more=other)))
    full = candidates(mask=None)
    assert float(loss.against(LABELS, Z, full)) != pytest.approx(float(loss.against(LABELS, Z, candidates())), rel=1e-3)


@each_loss_once
def test_anchors_that_are_no_candidates(cls, options, rule):
    loss = cls(**options, reduction="none", dtype="float64")
    index = (0, -1, 2, 3, -1, 5)
    expected = naive(Z, MORE, rule, self_index=index).reshape(B, VIEWS)
    np.testing.assert_allclose(loss.against(LABELS, Z, candidates(self_index=index)), expected, rtol=1e-7)
    expected = naive(Z, MORE, rule, self_index=None).reshape(B, VIEWS)
    np.testing.assert_allclose(loss.against(LABELS, Z, candidates(self_index=None)), expected, rtol=1e-7)


@each_loss_once
def test_reductions_are_those_of_the_loss(cls, options, rule):
    """An anchor without positive leaves the mean."""
    each = naive(Z, MORE, rule)[:4].reshape(2, VIEWS)
    labels = np.array([5, 9])
    weights = np.array([0.5, 2.0])
    weighted = each * weights[:, None]
    for reduction, expected in [
        ("sum_over_batch_size", weighted.mean()),
        ("sum", weighted.sum()),
        ("mean_with_sample_weight", weighted.sum() / (2 * weights.sum())),
    ]:
        loss = cls(**options, reduction=reduction, dtype="float64")
        result = loss.against(labels, Z[:2], candidates(self_index=(0, 1, 2, 3)), weights)
        assert float(result) == pytest.approx(expected, rel=1e-6)
    alone = cls(**options, dtype="float64").against(np.array([5, 9, 1]), Z, candidates())
    both = cls(**options, dtype="float64").against(labels, Z[:2], candidates(self_index=(0, 1, 2, 3)))
    assert float(alone) == pytest.approx(float(both), rel=1e-9)


@pytest.mark.parametrize(("cls", "options"), [(cls, options) for cls, options, _ in CASES + DENSE])
def test_a_batch_against_itself(cls, options):
    """Compared with its own embeddings a batch has the loss it has by itself, DCLW included."""
    variants = [options, {**options, "sigma": 0.5}] if cls is losses.DecoupledInfoNCE else [options]
    for variant in variants:
        loss = cls(**variant)
        z = Z.astype("float32")
        themselves = Candidates(z.reshape(-1, D), LABELS.repeat(2), np.arange(6), np.arange(6) % 2)
        assert float(loss.against(LABELS, z, themselves)) == pytest.approx(float(loss(LABELS, z)), rel=1e-5)


def test_custom_loss_supports_candidates():
    class Quadratic(losses.EmbeddingLoss):
        def losses_of_pairs(self, similarity, pairs):
            positive = keras.ops.where(pairs.positive, (1 - similarity) ** 2, 0)
            return keras.ops.sum(positive + keras.ops.where(pairs.negative, similarity**2, 0), axis=1)

    def rule(positives, negatives):
        return sum((1 - s) ** 2 for s in positives) + sum(s**2 for s in negatives)

    result = Quadratic(reduction="none", dtype="float64").against(LABELS, Z, candidates())
    np.testing.assert_allclose(result, naive(Z, MORE, rule).reshape(B, VIEWS), rtol=1e-9)


@pytest.mark.parametrize("block_size", ["dense", 4])
def test_functional_form(block_size):
    c = candidates()
    result = contrastive_loss(
        Z.reshape(-1, D), c.embeddings, LABELS.repeat(2), c.labels, scaling="arctanh", self_index=c.self_index,
        candidate_mask=c.mask, block_size=block_size,
    )  # fmt: skip
    np.testing.assert_allclose(result, naive(Z, MORE, info_nce(arctanh)), rtol=1e-7)


def test_no_candidate_at_all():
    """The first step of an empty memory: nobody has a positive, and nothing is NaN."""
    z = tf.constant(Z)
    for size in ("dense", 4):
        loss = losses.InfoNCE(0.2, block_size=size)
        nothing = Candidates(np.zeros((8, D)), np.zeros(8, "int64"), mask=np.zeros(8, bool))
        with tf.GradientTape() as tape, pytest.warns(UserWarning, match="no embedding of this batch has a positive"):
            tape.watch(z)
            result = loss.against(LABELS, z, nothing)
        assert float(result) == 0
        np.testing.assert_array_equal(tape.gradient(result, z), np.zeros_like(Z))


@pytest.mark.parametrize("block_size", ["dense", 4])
def test_views_of_any_integer_dtype(block_size):
    loss = losses.InfoNCE(0.2, cross_view_only=True, block_size=block_size)
    assert float(loss.against(LABELS, Z, candidates(views="int64"))) == float(loss.against(LABELS, Z, candidates()))


def test_labels_of_unknown_length():
    loss, c = losses.InfoNCE(0.2), candidates()

    @tf.function(input_signature=[tf.TensorSpec([None], "int64")])
    def against(labels):
        return loss.against(LABELS, Z, c._replace(labels=labels))

    assert float(against(c.labels)) == pytest.approx(float(loss.against(LABELS, Z, c)))


@pytest.mark.parametrize("mine", [None, [True, False]])
@pytest.mark.parametrize("theirs", [None, [False, True, True]])
def test_and_also_keeps_who_is_present(mine, theirs):
    def some(mask, count, views):
        mask = None if mask is None else np.array(mask)
        return Candidates(np.ones((count, D)), np.arange(count), views=views, mask=mask)

    both = some(mine, 2, np.array([0, 1])).concat(some(theirs, 3, np.array([0, 1, 0], "int32")))
    np.testing.assert_array_equal(both.views, [0, 1, 0, 1, 0])
    if mine is None and theirs is None:
        assert both.mask is None
    else:
        np.testing.assert_array_equal(both.mask, (mine or [True] * 2) + (theirs or [True] * 3))
    for views in ((None, None), (np.array([0, 1]), None), (None, np.array([0, 1, 0]))):
        both = some(mine, 2, views[0]).concat(some(theirs, 3, views[1]))
        assert both.views is None
        np.testing.assert_array_equal(both.labels, [0, 1, 0, 1, 2])


def test_bad_candidates():
    loss = losses.InfoNCE(0.2)
    with pytest.raises(ValueError, match=r"`candidates` must hold embeddings \(C, D\).*\(5, 3\).*5 labels"):
        loss.against(LABELS, Z, Candidates(np.zeros((5, 3)), np.arange(5)))
    with pytest.raises(ValueError, match=r"`candidates` must hold embeddings.*\(5, 4\) and 6 labels"):
        loss.against(LABELS, Z, Candidates(np.zeros((5, 4)), np.arange(6)))
    with pytest.raises(ValueError, match=r"`candidates.labels` must be integer labels\. Received: dtype=float64"):
        loss.against(LABELS, Z, Candidates(np.zeros((5, 4)), np.arange(5) + 0.5))
    with pytest.raises(ValueError, match="needs the view of each candidate"):
        losses.InfoNCE(0.2, cross_view_only=True).against(LABELS, Z, Candidates(np.zeros((5, 4)), np.arange(5)))


@pytest.mark.parametrize("block_size", ["dense", 5])
def test_a_valid_mask_as_a_numpy_array_in_blocks_that_are_not_full(block_size):
    mask = np.array([True] * 7 + [False] * 4)
    given = Candidates(np.vstack([MORE, Z[:, 0], Z[:2, 1]]), np.array([5, 9, 5, 9, 5, 9, 5, 9, 5, 9, 5]), mask=mask)
    kept = Candidates(given.embeddings[:7], given.labels[:7])
    loss = keras_tfcl.InfoNCE(0.5, reduction=None, block_size=block_size)
    expected = keras_tfcl.InfoNCE(0.5, reduction=None, block_size="dense").against(LABELS, Z, kept)
    np.testing.assert_allclose(loss.against(LABELS, Z, given), expected, rtol=1e-6)
