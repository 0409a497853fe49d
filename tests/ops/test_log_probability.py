"""The log Q correction of candidates in the functional form, dense and in tiles, against NumPy in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.ops import Candidates, contrastive_loss


def logits_of(z, c, scaling):
    s = (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (c / np.linalg.norm(c, axis=1, keepdims=True)).T
    return s, s / scaling if scaling != "arctanh" else np.log((1 + s + 1e-6) / (1 - s + 1e-6))


def naive(z, c, labels, of_candidates, log_q, scaling, top_k, decoupled):
    s, logits = logits_of(z, c, scaling)
    logits = logits - log_q
    losses = []
    for i, label in enumerate(labels):
        positive = of_candidates == label
        negative = ~positive
        if top_k and negative.any():  # the hardest by cosine, not by corrected logit
            negative &= s[i] >= np.sort(s[i][negative])[::-1][min(top_k, negative.sum()) - 1]
        if not positive.any() or (decoupled and not negative.any()):
            losses.append(0.0)
            continue
        among = negative if decoupled else positive | negative
        losses.append(np.log(np.exp(logits[i][among]).sum()) - logits[i][positive].mean())
    return np.array(losses)


@pytest.mark.parametrize("block", ["dense", pytest.param(1, marks=pytest.mark.slow), 6, 64])
@pytest.mark.parametrize(
    ("scaling", "top_k", "decoupled"),
    [(0.2, None, False), ("arctanh", None, False), (0.05, 4, False), (0.5, None, True), ("arctanh", 2, True)],
)
def test_equals_numpy(scaling, top_k, decoupled, block):
    rng = np.random.default_rng(0)
    z, c = rng.normal(size=(7, 4)), rng.normal(size=(13, 4))
    labels, of_candidates = rng.integers(0, 5, 7), rng.integers(0, 5, 13)
    log_q = np.log(rng.uniform(1e-4, 1, 13))
    arguments = labels, of_candidates, log_q, scaling, top_k, decoupled
    negatives = keras_tfcl.HardNegatives(top_k=top_k) if top_k else "all"

    def loss(z, c):
        return contrastive_loss(
            z,
            c,
            labels,
            of_candidates,
            scaling=scaling,
            negatives=negatives,
            decoupled=decoupled,
            candidate_log_probability=log_q,
            block_size=block,
        )

    x, y = tf.constant(z), tf.constant(c)
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        value = loss(x, y)
    np.testing.assert_allclose(value, naive(z, c, *arguments), rtol=1e-7, atol=1e-9)
    for which, received in enumerate(tape.gradient(value, [x, y])):
        expected = np.zeros_like((z, c)[which])
        for at in np.ndindex(expected.shape):
            steps = [z.copy(), c.copy()], [z.copy(), c.copy()]
            steps[0][which][at] += 1e-5
            steps[1][which][at] -= 1e-5
            above, below = (naive(*step, *arguments).sum() for step in steps)
            expected[at] = (above - below) / 2e-5
        np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", ["dense", 4])
def test_a_scaling_is_trained_beside_the_correction(block):
    rng = np.random.default_rng(1)
    z, c = rng.normal(size=(2, 6, 4))
    labels, log_q = np.arange(6), np.log(rng.uniform(0.01, 1, 6))
    scaling = keras_tfcl.LearnableTemperature(0.2)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(
            contrastive_loss(z, c, labels, labels, scaling=scaling, candidate_log_probability=log_q, block_size=block)
        )
    received = tape.gradient(value, scaling.trainable_variables[0])
    at = [naive(z, c, labels, labels, log_q, 0.2 * np.exp(step), None, False).sum() for step in (-1e-5, 1e-5)]
    assert float(received) == pytest.approx((at[0] - at[1]) / 2e-5, rel=1e-4)  # log_scale falls as t grows


@pytest.mark.parametrize("block", ["dense", 4])
def test_equal_probabilities_change_nothing(block):
    rng = np.random.default_rng(2)
    z, c = rng.normal(size=(2, 6, 4))
    plain = contrastive_loss(z, c, np.arange(6), np.arange(6), block_size=block)
    equal = contrastive_loss(
        z, c, np.arange(6), np.arange(6), candidate_log_probability=np.full(6, -3.0), block_size=block
    )
    np.testing.assert_allclose(equal, plain, rtol=1e-12)


@pytest.mark.parametrize("value", [0.5, np.nan, -np.inf])
def test_what_is_no_log_probability_is_refused(value):
    log_q = np.full(6, -1.0)
    log_q[3] = value
    z = np.eye(6)
    with pytest.raises(ValueError, match=r"Pass numpy\.log"):
        contrastive_loss(z, z, np.arange(6), np.arange(6), candidate_log_probability=log_q)


def test_arguments_that_do_not_go_together_are_refused():
    z, labels = np.eye(6), np.arange(6)
    with pytest.raises(ValueError, match="candidate_log_probability"):
        contrastive_loss(z, anchor_labels=labels, candidate_log_probability=-np.ones(6))
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        contrastive_loss(z, z, labels, labels, candidate_log_probability=-np.ones(5))
    with pytest.raises(ValueError, match="negatives='all'"):
        contrastive_loss(
            z, z, labels, labels, negatives=keras_tfcl.ReweightedNegatives(), candidate_log_probability=-np.ones(6)
        )
    candidates = Candidates(z, labels, log_probability=-np.ones(6))
    with pytest.raises(ValueError, match="of all candidates or of none"):
        candidates.concat(Candidates(z, labels))
    with pytest.raises(ValueError, match="log_probability"):
        keras_tfcl.InfoNCE().against(labels, z, candidates._replace(log_probability=-np.ones(5)))


def test_a_custom_choice_of_negatives_sees_corrected_logits():
    @keras.saving.register_keras_serializable(package="test_log_probability")
    class Near(keras_tfcl.Negatives):
        def keep(self, similarity, mask):
            return keras.ops.logical_and(mask, similarity > 0)

    rng = np.random.default_rng(3)
    z, c = rng.normal(size=(2, 9, 4))
    labels, log_q = np.arange(9), np.log(rng.uniform(0.01, 1, 9))
    s, logits = logits_of(z, c, 0.2)
    logits = logits - log_q
    among = (s > 0) | np.eye(9, dtype=bool)
    expected = np.log(np.where(among, np.exp(logits), 0).sum(1)) - np.diag(logits)
    for block in ("dense", 4):
        value = contrastive_loss(
            z, c, labels, labels, scaling=0.2, negatives=Near(), candidate_log_probability=log_q, block_size=block
        )
        np.testing.assert_allclose(value, expected, rtol=1e-6)
