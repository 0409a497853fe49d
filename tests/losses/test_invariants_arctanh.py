"""Kim and Kim 2025, arXiv 2501.17683: forms, gradients and the antipodal scenario of the temperature-free loss."""

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import value_and_derivative

S = np.linspace(-0.99, 0.99, 23)
POINTS = [0.0, 0.4, 0.55, 0.7, 0.9]


def slopes_in_cosines(s, scale):
    loss, slopes = value_and_derivative(
        lambda s: loss_of(keras_tfcl.ops.arctanh_logits(s, scale)), np.atleast_2d(s).astype("float64")
    )
    return float(loss[0]), slopes[0]


def loss_of(logits):
    """InfoNCE of one anchor, whose positive stands first."""
    first = tf.constant(np.arange(logits.shape[1])[None] == 0)
    return keras_tfcl.ops.info_nce_from_logits(logits, keras_tfcl.ops.Pairs(first, ~first)).loss


def antipodal(x, negatives, scaling):
    """dL/dx for s+ = x and all negatives at -x."""
    first = np.arange(negatives + 1)[None] == 0
    scaled = keras_tfcl.scaling.get(scaling)
    return float(value_and_derivative(lambda x: loss_of(scaled(tf.where(first, x, -x))), np.float64(x))[1])


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
def test_all_forms_of_the_logit_agree(scale):
    """c arctanh s = c/2 (log1p s - log1p -s) = chord form = c/2 log w = c log cot(theta/2)."""
    logits = keras_tfcl.Arctanh(scale)(S).numpy()
    theta = np.arccos(S)
    u, v = np.stack([np.ones_like(S), np.zeros_like(S)]), np.stack([np.cos(theta), np.sin(theta)])
    chord = np.log(((u + v) ** 2).sum(0)) - np.log(((u - v) ** 2).sum(0))
    for form in (
        scale * np.arctanh(S),
        scale / 2 * (np.log1p(S) - np.log1p(-S)),
        scale / 2 * chord,
        scale / 2 * np.log((1 + S) / (1 - S)),
        -scale * np.log(np.tan(theta / 2)),
    ):
        np.testing.assert_allclose(logits, form, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_gradients_of_section_3_2(scale):
    """dL/ds+ = -c Z / ((1 - s+^2) S), dL/ds_j = c w_j^{c/2} / ((1 - s_j^2) S)."""
    s = np.random.default_rng(0).uniform(-0.9, 0.9, 9)
    w = ((1 + s) / (1 - s)) ** (scale / 2)
    value, slopes = slopes_in_cosines(s, scale)
    assert value == pytest.approx(-np.log(w[0] / w.sum()), rel=1e-5)
    assert slopes[0] == pytest.approx(-scale * w[1:].sum() / ((1 - s[0] ** 2) * w.sum()), rel=1e-4)
    np.testing.assert_allclose(slopes[1:], scale * w[1:] / ((1 - s[1:] ** 2) * w.sum()), rtol=1e-4)


def test_gradients_balance_only_in_logit_space():
    """The positive's gradient is the sum of the negatives' after weighting each by 1 - s^2, and not before."""
    s = np.random.default_rng(1).uniform(-0.9, 0.9, 9)
    _, slopes = slopes_in_cosines(s, 2.0)
    weighted = (1 - s**2) * slopes
    assert weighted[1:].sum() == pytest.approx(-weighted[0], rel=1e-4)
    assert abs(slopes[1:].sum() + slopes[0]) > 0.01 * abs(slopes[0])


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_at_zero_it_is_infonce_of_temperature_one_over_scale(scale):
    value, slopes = slopes_in_cosines(np.zeros(8), scale)
    assert value == pytest.approx(np.log(8))
    np.testing.assert_allclose(slopes, scale * np.array([-7 / 8, *[1 / 8] * 7]), rtol=1e-5)


@pytest.mark.parametrize(
    ("scale", "negatives", "expected"),
    [
        (2.0, 1, [-2, -0.739, -0.446, -0.237, -0.058]),
        (1.0, 1, [-1, -0.714, -0.645, -0.588, -0.526]),
        (2.0, 255, [-3.98, -4.66, -5.48, -6.97, -8.72]),
        (1.0, 255, [-1.99, -2.36, -2.83, -3.84, -9.80]),
    ],
)
def test_antipodal_table(scale, negatives, expected):
    """-(2c / (1 - x^2)) M q^c / (1 + M q^c), q = (1 - x) / (1 + x)."""
    scaling = keras_tfcl.Arctanh(scale)
    for x, rounded in zip(POINTS, expected, strict=True):
        q = (1 - x) / (1 + x)
        exact = -2 * scale / (1 - x * x) * negatives * q**scale / (1 + negatives * q**scale)
        assert antipodal(x, negatives, scaling) == pytest.approx(exact, rel=1e-4)
        assert antipodal(x, negatives, scaling) == pytest.approx(rounded, abs=6e-3)
    if scale == 2.0:
        assert abs(antipodal(1.0, negatives, scaling)) < 1e-2


@pytest.mark.parametrize(
    ("temperature", "x", "expected"), [(0.1, 0.4, -6.7e-3), (0.25, 0.55, -0.097), (1.0, 1.0, -0.238)]
)
def test_antipodal_table_of_temperatures(temperature, x, expected):
    e = np.exp(-2 * x / temperature)
    assert antipodal(x, 1, temperature) == pytest.approx(-2 / temperature * e / (1 + e), rel=1e-9)
    assert antipodal(x, 1, temperature) == pytest.approx(expected, rel=1e-2)


def test_near_duplicate_negative_is_repelled_without_bound():
    """A negative at s -> 1 gets c / (2 (1 - s)) once it dominates: 1e4 at 1 - s = 1e-4, where a clip gives 0."""
    _, slopes = slopes_in_cosines(np.array([0.0, 1 - 1e-4]), 2.0)
    assert slopes[1] == pytest.approx(2 / 2 / 1e-4, rel=0.02)
