"""The settings of the benchmarks: what protocol.md fixes, and the loss that only the benchmarks have."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import keras_tfcl
from keras_tfcl.testing import check_loss

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("settings")


def test_fourteen_settings_take_the_keywords_of_every_task(settings):
    assert len(settings.SETTINGS) == 14
    z = np.random.default_rng(0).normal(size=(6, 2, 16)).astype("float32")
    for keywords in ({"cross_view_only": True}, {"roles": ("anchor", "positive"), "same_label": "ignore"}):
        for name in settings.SETTINGS:
            loss = settings.build(name, 16, **keywords)
            assert np.isfinite(float(loss(np.arange(6) // 2, z))), name
    assert settings.build("arctanh fisher", 66).scale == 8
    assert settings.build("arctanh 4", 66).scale == 4
    with pytest.raises(ValueError, match="Received: name='infonce 2'"):
        settings.build("infonce 2", 66)


def test_positive_pair_scaling_is_infonce_at_its_temperature(settings):
    """2 - 2 mean(s+) is the mean squared distance of the positive pairs, and a constant in the gradient."""
    import tensorflow as tf

    z = np.random.default_rng(1).normal(size=(8, 2, 5))
    z[:, 1] = z[:, 0] + z[:, 1] / 3
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    temperature = np.mean(np.sum((unit[:, 0] - unit[:, 1]) ** 2, axis=-1))
    results = []
    for loss in (settings.build("pps", 5), keras_tfcl.InfoNCE(temperature)):
        x = tf.constant(z)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(np.arange(8), x)
        results.append((value.numpy(), tape.gradient(value, x).numpy()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-5, atol=1e-9)


@pytest.fixture
def candidates(settings):
    return importlib.import_module("candidates")


def test_candidates_have_the_names_of_the_page(candidates):
    assert tuple(candidates.CANDIDATES) == importlib.import_module("results").CANDIDATES


@pytest.mark.parametrize("ignore_class", [None, 7])
def test_centred_is_arctanh_of_unit_vectors_without_their_mean(settings, ignore_class):
    z = np.random.default_rng(2).normal(2.0, 1.0, (8, 2, 5))
    labels = np.arange(8)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    kept = unit if ignore_class is None else unit[:7]
    expected = keras_tfcl.ArctanhInfoNCE(2.0)(labels[: len(kept)], kept - kept.mean(axis=(0, 1)))
    loss = settings.build("centred", 6, ignore_class=ignore_class)
    np.testing.assert_allclose(float(loss(labels, z)), float(expected), rtol=1e-6)


def test_studentised_is_arctanh_at_the_scale_of_its_batch(settings):
    """The deviation is taken over the negatives in NumPy; a wide cloud of them meets the limit."""
    import tensorflow as tf

    rng = np.random.default_rng(3)
    for spread, dimension in ((1.0, 6), (0.3, 18)):
        z = np.ones(6) + spread * rng.normal(size=(8, 2, 6))
        unit = (z / np.linalg.norm(z, axis=-1, keepdims=True)).reshape(16, 6)
        sample = np.arange(8).repeat(2)
        negatives = np.arctanh((unit @ unit.T)[sample[:, None] != sample])
        scale = min(np.sqrt(dimension - 2), 1 / negatives.std())
        results = []
        for loss in (settings.build("studentised", dimension), keras_tfcl.ArctanhInfoNCE(scale)):
            x = tf.constant(z)
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(np.arange(8), x)
            results.append((value.numpy(), tape.gradient(value, x).numpy()))
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)  # the library shifts the pole by 1e-6
        np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-3, atol=1e-7)


def test_positive_pair_scaling_passes_the_conformance_suite(settings):
    failures = {
        "gradient": "its temperature counts as a constant",
        "block_size": "its temperature is a mean over the whole batch, so that it is not computed in tiles",
    }
    check_loss(settings.PositivePairScaling(), expected_failures=failures)
