"""The antipodal scenario: automatic differentiation, closed forms, finite differences, and known values."""

import math

import numpy as np
import pytest

import keras_tfcl
from keras_tfcl.diagnostics import gradient_profile, plot_gradient_profile


def value(x, logit, negatives):
    return math.log(1 + negatives * math.exp(logit(-x) - logit(x)))


@pytest.mark.parametrize("negatives", [1, 255])
@pytest.mark.parametrize(
    ("scaling", "logit"),
    [
        (0.1, lambda s: s / 0.1),
        (1.0, lambda s: s),
        ("arctanh", lambda s: 2 * math.atanh(s)),
        (keras_tfcl.Arctanh(0.7), lambda s: 0.7 * math.atanh(s)),
    ],
)
def test_both_ways_equal_finite_differences(scaling, logit, negatives):
    (profile,) = gradient_profile([scaling], negatives=negatives, points=19)
    step = 1e-6
    by_hand = [
        (value(x + step, logit, negatives) - value(x - step, logit, negatives)) / (2 * step) for x in profile.similarity
    ]
    assert profile.closed_form == pytest.approx(by_hand, rel=1e-5, abs=1e-7)
    assert profile.gradient == pytest.approx(by_hand, rel=1e-4, abs=1e-7)
    assert profile.similarity[0] == pytest.approx(-0.9) and profile.negatives == negatives


@pytest.mark.parametrize(
    ("scaling", "at", "expected"),
    [
        # M = 1, from the derivation, not from this code
        (0.1, 0.4, -6.7e-3),
        (0.1, 0.7, -1.7e-5),
        (0.5, 0.7, -0.229),
        (1.0, 0.9, -0.284),
        ("arctanh", 0.4, -0.739),
        ("arctanh", 0.7, -0.237),
        (keras_tfcl.Arctanh(1.0), 0.9, -0.526),
    ],
)
def test_known_values(scaling, at, expected):
    (profile,) = gradient_profile([scaling], points=199)
    index = int(np.argmin(np.abs(profile.similarity - at)))
    assert profile.similarity[index] == pytest.approx(at)
    assert profile.gradient[index] == pytest.approx(expected, rel=0.03)


def test_what_the_figure_is_about():
    """A small temperature dies at moderate similarity, a large one never rests, the arctanh rests at 1 only."""
    small, large, arctanh = gradient_profile([0.05, 1.0, "arctanh"], points=1999)
    middle, end = 1000 + 500, -1
    assert abs(small.gradient[middle]) < 1e-6 < 0.1 < abs(arctanh.gradient[middle])
    assert abs(large.gradient[end]) > 0.2 > 1e-2 > abs(arctanh.gradient[end])


def test_a_scaling_without_a_formula_still_has_a_gradient():
    (profile,) = gradient_profile([keras_tfcl.DynamicTemperature(0.1, 0.2)], points=9)
    assert profile.closed_form is None and np.all(profile.gradient < 0)
    axes = plot_gradient_profile([profile])
    assert len(axes.get_lines()) == 1


def test_plot_shows_both_ways():
    profiles = gradient_profile([0.1, "arctanh"], points=41)
    lines = plot_gradient_profile(profiles).get_lines()
    assert len(lines) == 4
    np.testing.assert_array_equal(lines[2].get_ydata(), -profiles[1].gradient)
    np.testing.assert_array_equal(lines[3].get_ydata(), -profiles[1].closed_form[::2])
