"""Uniformity, tolerance, similarity profile, spectrum and histogram against loops and closed forms."""

import math

import numpy as np
import pytest
from scipy.special import hyp0f1

import keras_tfcl
from helpers.batches import unit
from keras_tfcl.diagnostics import (
    cosine_histogram,
    plot_cosine_histogram,
    plot_similarity_profile,
    plot_singular_spectrum,
    plot_uniformity_tolerance,
    similarities,
    similarity_profile,
    singular_spectrum,
    uniform_sphere,
    uniformity_tolerance,
)
from keras_tfcl.evaluation import pairs

N, D = 23, 5


def rows(seed=0, count=N):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, D)) * rng.uniform(0.01, 100, (count, 1)) + 0.3


@pytest.mark.parametrize("strip", [2**20, 70])
@pytest.mark.parametrize("t", [0.5, 2.0])
def test_spread_equals_the_double_loop(strip, t, monkeypatch):
    monkeypatch.setattr(pairs, "STRIP", strip)
    x, labels = unit(rows()), np.random.default_rng(1).integers(0, 4, N)
    every_pair = [(i, j) for i in range(N) for j in range(i)]
    kernel = np.mean([math.exp(-t * np.sum((x[i] - x[j]) ** 2)) for i, j in every_pair])
    tolerance = np.mean([x[i] @ x[j] for i, j in every_pair if labels[i] == labels[j]])
    spread = uniformity_tolerance(rows(), labels, t)
    assert (spread.uniformity, spread.tolerance) == pytest.approx((-math.log(kernel), tolerance), rel=1e-9)


def test_spread_of_one_batch_is_the_metrics():
    x, labels = rows().astype("float32"), np.arange(N) % 3
    ours = uniformity_tolerance(x, labels)
    for metric, value in ((keras_tfcl.Uniformity(), ours.uniformity), (keras_tfcl.Tolerance(), ours.tolerance)):
        metric.update_state(labels, x)
        assert float(metric.result()) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("dimension", [2, 64, 128, 256])
def test_the_uniform_sphere(dimension):
    for t in (0.5, 2.0, 5.0):
        expected = 2 * t - math.log(hyp0f1(dimension / 2, t**2))
        assert uniform_sphere(dimension, t) == pytest.approx(expected, rel=1e-12)
    points = np.random.default_rng(dimension).normal(size=(3000, dimension))
    assert uniformity_tolerance(points).uniformity == pytest.approx(uniform_sphere(dimension), rel=0.01)


def test_a_sample_estimates_the_whole():
    points = np.random.default_rng(2).normal(size=(6000, 8)) + 0.5
    with pytest.raises(ValueError, match=r"`max_samples` must be an integer of at least 2. Received: max_samples=1"):
        uniformity_tolerance(points, max_samples=1)
    whole, sample = uniformity_tolerance(points), uniformity_tolerance(points, max_samples=1500)
    assert sample.samples == 1500 and whole.samples == 6000
    assert sample.uniformity == pytest.approx(whole.uniformity, rel=0.02)
    assert sample.uniformity != whole.uniformity


def test_extremes_of_the_spread():
    collapsed = uniformity_tolerance(np.ones((9, 4)), np.zeros(9))
    assert (collapsed.uniformity, collapsed.tolerance) == pytest.approx((0.0, 1.0), abs=1e-12)
    assert math.isnan(uniformity_tolerance(rows()).tolerance)
    assert math.isnan(uniformity_tolerance(rows(), np.arange(N)).tolerance)


@pytest.mark.parametrize("block", [1000, 4])
def test_similarity_profile_equals_the_double_loop(block, monkeypatch):
    monkeypatch.setattr(similarities, "BLOCK", block)
    views = np.stack([rows(3), rows(4)], axis=1)
    x = unit(views)
    nearest, negatives = np.zeros(10), []
    for i in range(N):
        others = sorted((x[i, 0] @ x[j, 1] for j in range(N) if j != i), reverse=True)
        nearest += np.array(others[:10]) / N
        negatives += others
    profile = similarity_profile(views)
    assert profile.positive == pytest.approx(np.mean([x[i, 0] @ x[i, 1] for i in range(N)]), rel=1e-9)
    assert profile.nearest == pytest.approx(nearest, rel=1e-9)
    assert profile.mean_negative == pytest.approx(np.mean(negatives), rel=1e-9)
    assert profile.candidates == N - 1


def test_few_samples_have_few_negatives():
    profile = similarity_profile(np.stack([rows(5, 4), rows(6, 4)], axis=1))
    assert profile.nearest.shape == (3,)
    assert list(profile.nearest) == sorted(profile.nearest, reverse=True)


def test_spectrum_has_the_effective_rank():
    share = singular_spectrum(rows())
    assert share.sum() == pytest.approx(1) and list(share) == sorted(share, reverse=True)
    metric = keras_tfcl.EffectiveRank()
    metric.update_state(np.arange(N), rows())
    assert np.exp(-np.sum(share * np.log(share))) == pytest.approx(float(metric.result()), rel=1e-6)
    assert not singular_spectrum(np.ones((7, 3))).any()


@pytest.mark.parametrize("block", [1000, 4])
def test_histogram_equals_counting(block, monkeypatch):
    monkeypatch.setattr(similarities, "BLOCK", block)
    views = np.stack([rows(7), rows(8)], axis=1)
    x, histogram = unit(views), cosine_histogram(views, bins=4)
    counts = np.zeros((2, 4))
    for i in range(N):
        for j in range(N):
            counts[int(i != j), min(int((x[i, 0] @ x[j, 1] + 1) * 2), 3)] += 1
    np.testing.assert_allclose(histogram.positive, counts[0] / N)
    np.testing.assert_allclose(histogram.negative, counts[1] / (N * (N - 1)))
    assert plot_cosine_histogram(histogram).get_xlabel() == "cosine"


def test_plots_show_the_numbers():
    profile = similarity_profile(np.stack([rows(9), rows(10)], axis=1), neighbours=3)
    axes = plot_similarity_profile({"mine": profile})
    (line,) = axes.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [profile.positive, *profile.nearest])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["pos", "n1", "n2", "n3"]
    spread = uniformity_tolerance(rows(), np.arange(N) % 3)
    axes = plot_uniformity_tolerance({"mine": spread}, dimension=D)
    np.testing.assert_allclose(axes.collections[0].get_offsets()[0], [spread.uniformity, spread.tolerance])
    assert axes.get_lines()[0].get_xdata()[0] == uniform_sphere(D)
    assert axes.get_xlim()[0] == 0 and axes.get_ylim()[1] > 1  # where a collapse would be is visible
    share = singular_spectrum(rows())
    np.testing.assert_array_equal(plot_singular_spectrum(share).get_lines()[0].get_ydata(), share)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniformity_tolerance(np.ones(3)), r"`embeddings` must be embeddings of at least two.*shape=\(3,\)"),
        (lambda: uniformity_tolerance(np.ones((1, 3))), "at least two samples"),
        (lambda: uniformity_tolerance(np.ones((4, 2, 3))), "one for each sample.*pass one of them"),
        (lambda: uniformity_tolerance([[np.nan, 0], [1, 0]]), "must be finite. Received: NaN or Inf in 1 of 2 samples"),
        (lambda: uniformity_tolerance(rows(), [0, 1]), "one entry for each sample. Received: 2 labels, 23 samples"),
        (lambda: uniformity_tolerance(rows(), t=0), "`t` must be a positive finite number. Received: t=0"),
        (lambda: uniformity_tolerance(rows(), t=500), "`t` must be at most 20. Received: t=500"),
        (lambda: cosine_histogram(rows()[:, None].repeat(2, 1), bins=0), "`bins` must be an integer of at least 1"),
        (lambda: similarity_profile(rows()), "`views` must be embeddings"),
        (lambda: similarity_profile(np.ones((4, 2, 3)), 0), "`neighbours` must be an integer of at least 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
