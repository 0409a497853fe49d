"""HCL (Robinson et al. 2021), Debiased (Chuang et al. 2020) and DCL (Yeh et al. 2022): how they hang together."""

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import value_and_derivative

X = np.random.default_rng(0).normal(size=(6, 2, 5))
LABELS = np.arange(6)


def each(scaling, *arguments, detach=False):
    negatives = keras_tfcl.ReweightedNegatives(*arguments, detach=detach)
    return keras_tfcl.ContrastiveLoss(scaling, negatives, reduction=None, dtype="float64")(LABELS, X).numpy()


def slopes(beta, tau_plus, detach, positive=0.3):
    """One anchor with its positive's cosine | 0.9, 0.1, -0.6, temperature 0.5: gradient in the cosines."""
    pairs = keras_tfcl.ops.Pairs(tf.constant([[True, *[False] * 3]]), tf.constant([[False, *[True] * 3]]))

    def loss(s):
        log_sum = keras_tfcl.ops.reweighted_log_sum(
            s / 0.5, pairs, tf.constant(-2.0, "float64"), beta=beta, tau_plus=tau_plus, detach=detach
        )
        return keras_tfcl.ops.info_nce_from_logits(s / 0.5, pairs, log_negatives=log_sum).loss

    return value_and_derivative(loss, np.array([[positive, 0.9, 0.1, -0.6]]))[1][0]


@pytest.mark.parametrize("scaling", [0.1, 0.5, "arctanh"])
def test_hcl_without_weights_and_correction_is_infonce(scaling):
    plain = keras_tfcl.ContrastiveLoss(scaling, reduction=None, dtype="float64")(LABELS, X).numpy()
    np.testing.assert_allclose(each(scaling, 0.0, 0.0), plain, rtol=1e-10)


def test_debiased_closed_form():
    """Ng = max((sum e^{s/t} - tau+ M e^{s+/t}) / (1 - tau+), M e^{-1/t}); L = -log(pos / (pos + Ng))."""
    u = (X / np.linalg.norm(X, axis=-1, keepdims=True)).reshape(12, 5)
    e = np.exp(u @ u.T / 0.5)
    expected = []
    for i in range(12):
        positive, others = i ^ 1, [j for j in range(12) if j not in (i, i ^ 1)]
        ng = max((e[i, others].sum() - 0.1 * 10 * e[i, positive]) / 0.9, 10 * np.exp(-2.0))
        expected.append(-np.log(e[i, positive] / (e[i, positive] + ng)))
    np.testing.assert_allclose(each(0.5, 0.0, 0.1).ravel(), expected, rtol=1e-10)


def test_hcl_loss_does_not_fall_with_beta():
    losses = np.stack([each(0.5, beta, 0.0) for beta in (0.0, 0.5, 1.0, 2.0, 8.0)])
    assert (np.diff(losses, axis=0) >= 0).all()


def test_hcl_with_large_beta_is_the_hardest_negative_m_times():
    u = (X / np.linalg.norm(X, axis=-1, keepdims=True)).reshape(12, 5)
    s = u @ u.T
    hardest = [max(s[i, j] for j in range(12) if j not in (i, i ^ 1)) for i in range(12)]
    positive = [s[i, i ^ 1] for i in range(12)]
    expected = np.log1p(10 * np.exp((np.array(hardest) - positive) / 0.5))
    np.testing.assert_allclose(each(0.5, 1e5, 0.0).ravel(), expected, rtol=1e-6)


def test_hcl_attracts_easy_negatives_unless_detached():
    """Negatives with e^l < beta / (1 + beta) R / M get a negative gradient through the weights."""
    e = np.exp(np.array([0.9, 0.1, -0.6]) / 0.5)
    mean = (e**2).sum() / e.sum()  # R / M for beta = 1
    easy = e < mean / 2
    assert 0 < easy.sum() < 3
    assert ((slopes(1.0, 0.0, detach=False)[1:] < 0) == easy).all()
    assert (slopes(1.0, 0.0, detach=True)[1:] > 0).all()


@pytest.mark.parametrize("tau_plus", [0.0, 0.1])
def test_debiased_gradients_have_the_signs_of_infonce(tau_plus):
    gradient = slopes(0.0, tau_plus, detach=False)
    assert gradient[0] < 0
    assert (gradient[1:] > 0).all()


def test_clamped_sum_of_negatives_has_no_gradient():
    """tau+ M e^{s+/t} = 0.9 * 3 * e^2 exceeds the sum of the negatives."""
    gradient = slopes(0.0, 0.9, detach=False, positive=1.0)
    assert gradient[0] < 0
    assert (gradient[1:] == 0).all()


@pytest.mark.parametrize("scaling", [0.1, 0.5, "arctanh"])
def test_infonce_is_softplus_of_dcl(scaling):
    arguments = {"reduction": None, "dtype": "float64"}
    nce = keras_tfcl.ContrastiveLoss(scaling, **arguments)(LABELS, X).numpy()
    dcl = keras_tfcl.ContrastiveLoss(scaling, decoupled=True, **arguments)(LABELS, X).numpy()
    np.testing.assert_allclose(nce, np.logaddexp(0, dcl), rtol=1e-10)


def test_dcl_gradients_are_constant_in_the_positive():
    """dL/ds+ = -1/t, dL/ds_j = r_j / t: no factor that fades with an easy positive."""
    s = tf.constant([[0.95, 0.9, 0.1, -0.6]], "float64")
    pairs = keras_tfcl.ops.Pairs(tf.constant([[True, *[False] * 3]]), tf.constant([[False, *[True] * 3]]))
    with tf.GradientTape() as tape:
        tape.watch(s)
        loss = keras_tfcl.ops.info_nce_from_logits(s / 0.2, pairs, decoupled=True).loss
    r = np.exp(s.numpy()[0, 1:] / 0.2)
    np.testing.assert_allclose(tape.gradient(loss, s)[0], np.array([-1, *r / r.sum()]) / 0.2, rtol=1e-10)


def test_dclw_weights_have_mean_one_and_favour_distant_positives():
    s, valid = np.random.default_rng(1).uniform(-1, 1, 9), np.arange(9) < 7
    w = keras_tfcl.ops.pair_sums.decoupling_weights(s, valid, 0.5).numpy()
    np.testing.assert_allclose(w[:7], 2 - np.exp(2 * s[:7]) / np.exp(2 * s[:7]).mean(), rtol=1e-10)
    assert w[:7].mean() == pytest.approx(1.0)
    assert (np.argsort(w[:7]) == np.argsort(-s[:7])).all()


@pytest.mark.parametrize("s", [[1.0, 0.99, 0.5], [-1.0, -0.99, -0.95]])
def test_dclw_weights_of_a_small_sigma_neither_overflow_nor_vanish(s):
    w = keras_tfcl.ops.pair_sums.decoupling_weights(np.float32(s), np.ones(3, bool), 0.01).numpy()
    share = np.exp((np.float64(np.float32(s)) - max(s)) / 0.01)
    np.testing.assert_allclose(w, 2 - share / share.mean(), rtol=1e-5)


def test_supcon_with_unique_labels_is_nt_xent():
    """Rows as labels, the second view of each row written below the first."""
    stacked = np.concatenate([X[:, 0], X[:, 1]])
    labelled = keras_tfcl.InfoNCE(0.2, dtype="float64")(np.tile(LABELS, 2), stacked)
    assert float(labelled) == pytest.approx(float(keras_tfcl.InfoNCE(0.2, dtype="float64")(LABELS, X)), rel=1e-10)


def test_supcon_floor():
    """L_i >= log |P(i)|; a class of one gives a finite loss and gradient."""
    labels = np.array([0, 0, 0, 1, 1, 2])
    losses = keras_tfcl.InfoNCE(0.07, reduction=None, dtype="float64")(labels, X[:, 0]).numpy()
    assert (losses >= np.log([2, 2, 2, 1, 1, 1])).all()
    assert losses[5] == 0


def test_siglip_start():
    """Orthogonal embeddings, scale 10, bias -10: softplus(10) + (B - 1) softplus(-10), 10.0116 for B = 256."""
    x = np.eye(512, dtype="float32").reshape(256, 2, 512)
    value = float(keras_tfcl.SigmoidContrastiveLoss(cross_view_only=True)(np.arange(256), x))
    assert value == pytest.approx(10.0116, abs=1e-4)
    assert value == pytest.approx(np.logaddexp(0, 10) + 255 * np.logaddexp(0, -10), rel=1e-6)


def test_simclr_reference_is_twice_the_mean():
    """google-research/simclr returns loss_a + loss_b, each the mean over one view's anchors."""
    losses = keras_tfcl.InfoNCE(0.1, reduction=None, dtype="float64")(LABELS, X).numpy()
    mean = float(keras_tfcl.InfoNCE(0.1, dtype="float64")(LABELS, X))
    assert losses[:, 0].mean() + losses[:, 1].mean() == pytest.approx(2 * mean)
