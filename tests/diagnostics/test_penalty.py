"""The relative penalty: loops, gradients of the loss itself, and the closed forms of its peak and entropy."""

import math

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.diagnostics import (
    entropy_of_penalty,
    penalty_curves,
    plot_entropy_of_penalty,
    plot_relative_penalty,
    relative_penalty,
)

SCALINGS = [0.07, 0.3, 1.0, "arctanh", keras_tfcl.Arctanh(8.0), keras_tfcl.DynamicTemperature(0.1, 0.2)]


def test_equals_the_boltzmann_share_by_loops():
    cosines = np.random.default_rng(0).uniform(-1, 1, (3, 7))
    shares = relative_penalty(cosines, 0.2)
    for row, share in zip(cosines, shares, strict=True):
        total = sum(math.exp(s / 0.2) for s in row)
        assert share == pytest.approx([math.exp(s / 0.2) / total for s in row], rel=1e-9)


@pytest.mark.parametrize("scaling", SCALINGS[:-1])  # the last one's temperature is detached: differences see it
def test_is_the_share_of_the_losses_own_gradient(scaling):
    """d loss / d s_j by finite differences of the logits and the InfoNCE formula in float64."""
    cosines = np.random.default_rng(1).uniform(-0.9, 0.9, 6)
    scale = keras_tfcl.scaling.get(scaling)

    def loss(negatives):
        logits = np.asarray(scale(tf.constant(negatives, "float64")))
        return np.log(np.exp(0.5) + np.exp(logits).sum())

    step = 1e-5
    slopes = [(loss(cosines + step * e) - loss(cosines - step * e)) / (2 * step) for e in np.eye(6)]
    assert relative_penalty(cosines, scaling) == pytest.approx(np.array(slopes) / np.sum(slopes), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_sums_to_one(scaling):
    cosines = np.random.default_rng(2).uniform(-1, 1, (4, 50))
    assert relative_penalty(cosines, scaling).sum(axis=-1) == pytest.approx(np.ones(4))


@pytest.mark.parametrize("t", [0.07, 0.3, 0.7, 1.0])
def test_peak_and_entropy_of_evenly_spread_negatives(t):
    """The peak tends to (2/t)/(1 - e^(-2/t)); exp(H)/M to the entropy of that density, in closed form."""
    (curve,) = penalty_curves([t], negatives=100_001)
    peak = (2 / t) / (1 - math.exp(-2 / t))
    assert curve.times_mean.max() == pytest.approx(peak, rel=1e-3)
    # H - log M = log Z - E[s]/t, with Z the mean of e^(s/t) over s in [-1, 1]
    mean_cosine = 1 / math.tanh(1 / t) - t
    log_z = math.log(t * math.sinh(1 / t))
    assert curve.share_that_matters == pytest.approx(math.exp(log_z - mean_cosine / t), rel=1e-3)


def test_entropy_falls_with_the_temperature_at_the_known_rate():
    """dH/dt = Var_r(s) / t^3 > 0."""
    cosines, step = np.random.default_rng(3).uniform(-1, 1, 30), 1e-5
    for t in (0.1, 0.5, 2.0):
        share = relative_penalty(cosines, t)
        variance = share @ cosines**2 - (share @ cosines) ** 2
        slope = (entropy_of_penalty(cosines, t + step) - entropy_of_penalty(cosines, t - step)) / (2 * step)
        assert slope == pytest.approx(variance / t**3, rel=1e-4)
        assert slope > 0


def test_entropy_bounds():
    assert entropy_of_penalty(np.full((2, 9), 0.4), 0.1) == pytest.approx(np.log([9, 9]))
    assert entropy_of_penalty([1.0, -1.0, -1.0], 0.01) == pytest.approx(0, abs=1e-12)
    assert np.isfinite(entropy_of_penalty([1.0, -1.0, 0.0], "arctanh"))


def test_plots_show_the_curves():
    curves = penalty_curves([0.3, "arctanh"], negatives=101)
    axes = plot_relative_penalty(curves)
    assert [line.get_label() for line in axes.get_lines()] == ["temperature 0.3", "arctanh, scale 2"]
    np.testing.assert_array_equal(axes.get_lines()[1].get_ydata(), curves[1].times_mean)
    assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title()
    bars = plot_entropy_of_penalty(curves)
    assert [bar.get_height() for bar in bars.patches] == [curve.share_that_matters for curve in curves]


def test_bad_cosines_are_named():
    with pytest.raises(ValueError, match=r"`similarities` must be cosines in \[-1, 1\].*Received.*largest size 3"):
        relative_penalty([3.0, 0.0])
    with pytest.raises(ValueError, match="`similarities` must be cosines"):
        relative_penalty([np.nan, 0.0])
    with pytest.raises(ValueError, match="`scaling` must be"):
        relative_penalty([0.0], "cold")
