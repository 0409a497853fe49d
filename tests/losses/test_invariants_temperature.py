"""Wang and Liu 2021, arXiv 2012.09740: gradients, relative penalty and limits; equations by number."""

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import value_and_derivative

S = np.random.default_rng(0).uniform(-0.9, 0.9, 12)  # one anchor: a positive, eleven negatives
POSITIVE = np.arange(12) == 0


def loss_and_slopes(scaling, negatives=None, s=S, decoupled=False):
    """The loss of one anchor, and its gradient in the cosines."""

    def loss_of(s):
        pairs = keras_tfcl.ops.Pairs(tf.constant(POSITIVE[None]), tf.constant(~POSITIVE[None]))
        logits, log_negatives = keras_tfcl.scaling.get(scaling)(s), None
        if negatives is not None:
            pairs = keras_tfcl.ops.Pairs(pairs.positive, negatives.keep(tf.stop_gradient(s), pairs.negative))
            lowest = keras_tfcl.scaling.get(scaling)(tf.constant(-1.0, "float64"))
            log_negatives = negatives.log_sum(logits, pairs, lowest)
        return keras_tfcl.ops.info_nce_from_logits(logits, pairs, log_negatives=log_negatives, decoupled=decoupled).loss

    loss, slopes = value_and_derivative(loss_of, np.asarray(s[None], "float64"))
    return float(loss[0]), slopes[0]


def penalty(s, temperature):
    """r of eq. 5, from its definition."""
    e = np.exp((s - s.max()) / temperature)
    return e / e.sum()


@pytest.mark.parametrize("temperature", [0.07, 0.3, 1.0])
def test_equation_4_gradients(temperature):
    p = penalty(S, temperature)  # softmax over all terms
    _, slopes = loss_and_slopes(temperature)
    assert slopes[0] == pytest.approx(-p[1:].sum() / temperature)
    np.testing.assert_allclose(slopes[1:], p[1:] / temperature)


@pytest.mark.parametrize("negatives", [None, keras_tfcl.HardNegatives(top_k=4), keras_tfcl.HardNegatives(alpha=0.5)])
def test_positive_gradient_equals_the_sum_of_the_negatives(negatives):
    _, slopes = loss_and_slopes(0.2, negatives)
    assert slopes[0] < 0
    assert (slopes[1:] >= 0).all()
    assert slopes[1:].sum() == pytest.approx(-slopes[0])


@pytest.mark.parametrize("temperature", [0.07, 0.3, 1.0])
def test_equation_5_relative_penalty(temperature):
    _, slopes = loss_and_slopes(temperature)
    relative = slopes[1:] / -slopes[0]
    np.testing.assert_allclose(relative, penalty(S[1:], temperature))
    assert relative.sum() == pytest.approx(1.0)


def test_entropy_of_the_penalty_grows_with_the_temperature():
    """dH/dt = Var_r(s) / t^3."""

    def entropy(t):
        _, slopes = loss_and_slopes(t)
        r = slopes[1:] / slopes[1:].sum()
        return -(r * np.log(r)).sum()

    for t in (0.1, 0.3, 1.0):
        r = penalty(S[1:], t)
        variance = (r * S[1:] ** 2).sum() - (r * S[1:]).sum() ** 2
        slope = (entropy(t + 1e-5) - entropy(t - 1e-5)) / 2e-5
        assert slope == pytest.approx(variance / t**3, rel=1e-6)
        assert slope > 0


@pytest.mark.parametrize("temperature", [0.05, 0.01, 0.002])
def test_equation_6_triplet_limit(temperature):
    """t L -> max(s_max - s+, 0), to within t log N."""
    value, _ = loss_and_slopes(temperature)
    assert abs(temperature * value - max(S[1:].max() - S[0], 0.0)) <= temperature * np.log(12)


def test_equation_7_simple_limit():
    """t N / (N - 1) (L - log N) -> L_simple with its default weight 1 / (N - 1), as 1 / t."""
    x = np.random.default_rng(1).normal(size=(6, 2, 4))
    simple = keras_tfcl.SimpleContrastiveLoss(reduction=None, dtype="float64")(np.arange(6), x).numpy()
    gaps = []
    for temperature in (100.0, 1000.0):
        nce = keras_tfcl.InfoNCE(temperature, reduction=None, dtype="float64")(np.arange(6), x).numpy()
        gaps.append(np.abs(temperature * 11 / 10 * (nce - np.log(11)) - simple).max())
        # The remainder is at most N/(N-1) Var(s) / (2 t), and a cosine's variance is at most 1.
        assert gaps[-1] <= 0.56 / temperature
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.05)


def test_equation_7_simple_limit_of_the_hard_loss():
    """HardSimple is the same limit of L_hard."""
    x, hard = np.random.default_rng(1).normal(size=(6, 2, 4)), keras_tfcl.HardNegatives(top_k=3)
    simple = keras_tfcl.SimpleContrastiveLoss(negatives=hard, reduction=None, dtype="float64")(np.arange(6), x).numpy()
    nce = keras_tfcl.HardNegativeInfoNCE(1e4, top_k=3, reduction=None, dtype="float64")(np.arange(6), x).numpy()
    np.testing.assert_allclose(1e4 * 4 / 3 * (nce - np.log(4)), simple, atol=1e-3)


@pytest.mark.parametrize("k", [1, 4])
def test_equation_8_penalty_in_the_informative_interval(k):
    """Among the k hardest the penalty is the softmax of those, and 0 elsewhere."""
    _, slopes = loss_and_slopes(0.3, keras_tfcl.HardNegatives(top_k=k))
    hardest = np.sort(S[1:])[-k:]
    expected = np.array([penalty(hardest, 0.3)[np.searchsorted(hardest, s)] if s >= hardest[0] else 0.0 for s in S[1:]])
    np.testing.assert_allclose(slopes[1:] / -slopes[0], expected, atol=1e-12)


@pytest.mark.parametrize("negatives", [keras_tfcl.HardNegatives(alpha=1.0), keras_tfcl.HardNegatives(top_k=11)])
def test_equation_9_all_negatives_is_infonce(negatives):
    assert loss_and_slopes(0.2, negatives)[0] == pytest.approx(loss_and_slopes(0.2)[0], rel=1e-12)
    more = keras_tfcl.HardNegatives(top_k=500)
    assert loss_and_slopes(0.2, more)[0] == pytest.approx(loss_and_slopes(0.2)[0], rel=1e-12)


def test_equation_9_fewer_negatives_never_raise_the_loss():
    values = [loss_and_slopes(0.3, keras_tfcl.HardNegatives(top_k=k))[0] for k in range(1, 12)]
    assert (np.diff(values) > 0).all()
    assert values[-1] == pytest.approx(loss_and_slopes(0.3)[0])


def test_equation_9_ties_stay():
    s = np.array([0.9, 0.5, 0.5, 0.5, 0.1, *[-0.5] * 7])
    value, slopes = loss_and_slopes(0.3, keras_tfcl.HardNegatives(top_k=2), s)
    assert (slopes[1:4] > 0).all()
    assert (slopes[4:] == 0).all()
    assert value == pytest.approx(np.log(np.exp(0.9 / 0.3) + 3 * np.exp(0.5 / 0.3)) - 0.9 / 0.3)


def test_gradient_of_the_learnable_temperature():
    """For the scale a = 1/t: dL/da = E_P[s] - s+; the trained variable is log a, so times a."""
    scaling = keras_tfcl.LearnableTemperature(0.2)
    pairs = keras_tfcl.ops.Pairs(tf.constant(POSITIVE[None]), tf.constant(~POSITIVE[None]))
    with tf.GradientTape() as tape:
        loss = keras_tfcl.ops.info_nce_from_logits(scaling(tf.constant(S[None])), pairs).loss
    p = penalty(S, 0.2)
    assert float(tape.gradient(loss, scaling.log_scale.value)) == pytest.approx(5.0 * ((p * S).sum() - S[0]), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_floor(temperature):
    """L >= log(1 + M exp(-2 / t)), reached by equal positives and opposite negatives."""
    s = np.where(POSITIVE, 1.0, -1.0)
    value, _ = loss_and_slopes(temperature, s=s)
    assert value == pytest.approx(np.log1p(11 * np.exp(-2 / temperature)))
    assert loss_and_slopes(temperature)[0] > value


@pytest.mark.parametrize(
    "make",
    [
        lambda: (0.3, None),
        lambda: ("arctanh", None),
        lambda: (0.3, keras_tfcl.ReweightedNegatives(1.5, 0.0)),
        lambda: (0.3, keras_tfcl.ReweightedNegatives(1.5, 0.1)),
        lambda: (0.3, keras_tfcl.ReweightedNegatives(0.0, 0.1)),
        lambda: ("arctanh", keras_tfcl.ReweightedNegatives(1.5, 0.1)),
    ],
)
def test_equal_similarities_give_log_of_the_number_of_terms(make):
    """InfoNCE = debiased = HCL = arctanh = log(1 + M)."""
    value, _ = loss_and_slopes(*make(), s=np.full(12, 0.4))
    assert value == pytest.approx(np.log(12), rel=1e-9)
