"""Margins on positives: proxies, tiles, candidates, the poles of the angle, training and saving.

`test_pair_rules.py` compares value and gradient with NumPy, `test_against_peers.py` with pytorch-metric-learning.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import value_and_derivative, value_and_gradient
from keras_tfcl.ops import Candidates, angular_margin, contrastive_loss

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 30)
Z = RNG.normal(size=(30, 2, 8))
MARGINS = {
    "cosine": lambda scaling: keras_tfcl.CosineMargin(scaling, 0.35),
    "angular": lambda scaling: keras_tfcl.AngularMargin(scaling, 0.5),
}
SHIFTED = {"cosine": lambda s: s - 0.35, "angular": lambda s: np.cos(np.arccos(s) + 0.5)}


@pytest.mark.parametrize("kind", MARGINS)
def test_with_one_candidate_for_each_class_it_is_the_classification_loss(kind):
    """Softmax cross-entropy over classes, the margin on the true one: the form of the papers."""
    anchors, proxies = Z[:, 0], RNG.normal(size=(4, 8))
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (anchors, proxies)]
    cosines = units[0] @ units[1].T
    logits, rows = cosines.copy(), np.arange(30)
    assert (np.arccos(cosines[rows, LABELS]) + 0.5 < np.pi).all()
    logits[rows, LABELS] = SHIFTED[kind](cosines[rows, LABELS])
    expected = np.log(np.exp(64 * logits).sum(1)) - 64 * logits[rows, LABELS]
    received = contrastive_loss(anchors, proxies, LABELS, np.arange(4), scaling=MARGINS[kind](1 / 64))
    np.testing.assert_allclose(received, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("kind", "scaling", "negatives"),
    [
        ("cosine", 0.2, keras_tfcl.HardNegatives(top_k=5)),
        ("cosine", 1 / 64, "all"),
        ("angular", 1 / 64, keras_tfcl.HardNegatives(top_k=5)),
        ("angular", 0.2, keras_tfcl.ReweightedNegatives(0.5)),
    ],
)
def test_tiles_equal_the_dense_form(kind, scaling, negatives):
    """A temperature of 1/64 exceeds the range of one exponential, and multiplies the rounding of float32 by 64."""
    for labels, rule in ((LABELS, {}), (np.arange(30), {"cross_view_only": True})):
        dense, tiled = (
            keras_tfcl.ContrastiveLoss(MARGINS[kind](scaling), negatives, block_size=block, **rule)
            for block in ("dense", 16)
        )
        expected, slopes = value_and_gradient(dense, Z, labels)
        received, received_slopes = value_and_gradient(tiled, Z.astype("float32"), labels)
        np.testing.assert_allclose(received, expected, rtol=5e-6)
        np.testing.assert_allclose(received_slopes, slopes, atol=1e-5 * np.abs(slopes).max())


@pytest.mark.parametrize("kind", MARGINS)
def test_given_candidates_equal_the_batch(kind):
    numbers = np.arange(60)
    batch = Candidates(Z.reshape(60, 8), LABELS.repeat(2), numbers, numbers % 2, samples=numbers // 2)
    queue = Candidates(np.ones((2, 8)), np.array([0, 1]), mask=np.zeros(2, bool))
    for block in ("dense", 16):
        loss = keras_tfcl.ContrastiveLoss(MARGINS[kind](0.2), block_size=block)
        np.testing.assert_allclose(loss.against(LABELS, Z, batch.concat(queue)), loss(LABELS, Z), rtol=1e-6)


def test_the_angular_margin_of_equal_and_opposite_embeddings():
    s = np.array([-1.0, -np.cos(0.5) - 1e-9, -np.cos(0.5) + 1e-9, 0.0, 0.5, 1 - 1e-4, 1.0])
    value, slope = value_and_derivative(lambda x: angular_margin(x, 0.5), s)
    turned = np.cos(np.arccos(s) + 0.5)
    np.testing.assert_allclose(value, np.where(s < -np.cos(0.5), s - 0.5 * np.sin(0.5), turned), atol=1e-12)
    angle = np.arccos(s[2:-1])
    np.testing.assert_allclose(slope[2:-1], np.sin(angle + 0.5) / np.sin(angle), rtol=1e-6)
    assert slope[:2].tolist() == [1, 1]
    np.testing.assert_allclose(slope[-1], 1e3 * np.sin(0.5) + np.cos(0.5), rtol=1e-6)


@pytest.mark.parametrize("kind", MARGINS)
def test_identical_views_have_finite_gradients(kind):
    z = np.repeat(Z[:, :1], 2, axis=1).astype("float32")
    for block in ("dense", 16):
        loss = keras_tfcl.ContrastiveLoss(MARGINS[kind](0.1), block_size=block)
        value, gradient = value_and_gradient(loss, z, LABELS)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("momentum", [{}, {"momentum": 0.9, "queue_size": 64}])
def test_it_trains_and_is_saved_with_its_temperature(tmp_path, momentum):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)])
    model = keras_tfcl.ContrastiveModel(encoder, supervised=True, seed=0, **momentum)
    scaling = keras_tfcl.AngularMargin(keras_tfcl.LearnableTemperature(0.2))
    model.compile(keras.optimizers.Adam(0.01), loss=keras_tfcl.ContrastiveLoss(scaling), run_eagerly=True)
    views = tuple(np.random.default_rng(1).normal(size=(2, 64, 8)).astype("float32"))
    y = np.arange(64) % 4
    model.fit(views, y, batch_size=32, epochs=2, verbose=0)
    assert float(scaling.scaling.temperature) != pytest.approx(0.2, rel=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.scaling.margin == 0.5
    expected = model.evaluate(views, y, batch_size=32, verbose=0)
    assert loaded.evaluate(views, y, batch_size=32, verbose=0) == expected


def test_a_scaling_of_your_own_may_have_a_margin():
    class Half(keras_tfcl.Scaling):
        def __call__(self, similarity):
            return 5.0 * similarity

        def positive_cosine(self, similarity):
            return 0.5 * similarity - 1.0

    np.testing.assert_allclose(Half().logit_range(), (-7.5, 5.0))
    shifted = lambda s: s - 0.35  # noqa: E731
    Half.positive_cosine = staticmethod(shifted)
    for block in ("dense", 16):
        ours = keras_tfcl.ContrastiveLoss(Half(), block_size=block)(LABELS, Z)
        ready = keras_tfcl.ContrastiveLoss(keras_tfcl.CosineMargin(0.2, 0.35), block_size=block)(LABELS, Z)
        np.testing.assert_allclose(ours, ready, rtol=1e-6)


@pytest.mark.parametrize("make", [keras_tfcl.CosineMargin, keras_tfcl.AngularMargin])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scaling": "arctanh"}, "Pass a temperature"),
        ({"margin": 0}, "`margin` must be"),
        ({"margin": 2.5}, "`margin` must be a number in"),
        ({"margin": float("nan")}, "`margin` must be"),
        ({"scaling": -1.0}, "temperature"),
    ],
)
def test_arguments_that_are_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_compiled_by_xla():
    loss = keras_tfcl.ContrastiveLoss(keras_tfcl.AngularMargin(0.1), block_size=16)
    z = tf.constant(Z, "float32")
    value, gradient = value_and_gradient(loss, z, LABELS, jit=True)
    expected, slopes = value_and_gradient(loss, z, LABELS)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slopes, atol=1e-5 * np.abs(slopes).max())
