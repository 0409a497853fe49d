"""CoSENT and the contrastive loss of pairs, against loops in NumPy; in training, saved, and with input that is wrong.

`test_against_peers.py` compares both with sentence-transformers.
"""

import keras
import numpy as np
import pytest

import keras_tfcl
from helpers.gradients import value_and_gradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(9, 2, 4)) * RNG.uniform(0.1, 10, (9, 2, 1))
GRADED = np.array([3.0, 1.0, 1.0, 0.2, 5.0, 3.0, 0.2, 4.8, -1.0])
BINARY = (GRADED > 1).astype(int)
WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 1.0, 3.0, 1.0, 0.25])


def cosines(x):
    units = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return (units[:, 0] * units[:, 1]).sum(-1)


def cosent(x, scores, weights, scale=20.0):
    s, total = cosines(x), 1.0
    for i in range(len(s)):
        for j in range(len(s)):
            if scores[i] > scores[j]:
                total += weights[i] * weights[j] * np.exp(scale * (s[j] - s[i]))
    return np.log(total)


def contrastive(x, labels, weights, margin=0.5):
    each = [(1 - s) ** 2 / 2 if y else max(margin - 1 + s, 0) ** 2 / 2 for s, y in zip(cosines(x), labels, strict=True)]
    return np.mean(weights * np.array(each))


def gradient_of(function, x):
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = 1e-6
        gradient[at] = (function(x + step) - function(x - step)) / 2e-6
    return gradient


CASES = [
    (lambda **k: keras_tfcl.CoSENTLoss(**k), cosent, GRADED),
    (lambda **k: keras_tfcl.CoSENTLoss(3.0, **k), lambda *a: cosent(*a, scale=3.0), BINARY),
    (lambda **k: keras_tfcl.PairContrastiveLoss(**k), contrastive, BINARY),
    (lambda **k: keras_tfcl.PairContrastiveLoss(1.5, **k), lambda *a: contrastive(*a, margin=1.5), BINARY),
]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(("make", "reference", "scores"), CASES)
def test_equals_a_loop(make, reference, scores, weights):
    loss = make(dtype="float64")
    loss = type(loss).from_config(loss.get_config())
    given = np.ones(9) if weights is None else weights
    value, gradient = value_and_gradient(loss, X, scores, weights)
    np.testing.assert_allclose(value, reference(X, scores, given), rtol=1e-9)
    np.testing.assert_allclose(gradient, gradient_of(lambda x: reference(x, scores, given), X), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("make", "reference", "scores"), CASES[1:3])
def test_compiled_and_in_other_dtypes(make, reference, scores):
    value, gradient = value_and_gradient(make(), X.astype("float32"), scores[:, None], WEIGHTS[:, None], jit=True)
    np.testing.assert_allclose(value, reference(X, scores, WEIGHTS), rtol=1e-5)
    expected = gradient_of(lambda x: reference(x, scores, WEIGHTS), X)
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())
    rough, _ = value_and_gradient(make(), X.astype("float16"), scores, WEIGHTS, jit=True)
    np.testing.assert_allclose(rough, reference(X, scores, WEIGHTS), rtol=2e-2)


def test_a_pair_of_weight_zero_changes_nothing():
    kept = WEIGHTS > 0
    loss = keras_tfcl.CoSENTLoss(dtype="float64")
    expected = loss(GRADED[kept], X[kept], WEIGHTS[kept])
    other = np.where(kept, GRADED, [100.0, -100.0, 1, 1, 7, 1, 1, 1, 1])
    np.testing.assert_allclose(loss(other, X, WEIGHTS), expected, rtol=1e-12)


def test_equal_scores_and_identical_embeddings():
    value, gradient = value_and_gradient(keras_tfcl.CoSENTLoss(), X, np.ones(9))
    assert value == 0
    assert not gradient.any()
    same = np.repeat(X[:, :1], 2, axis=1)
    for loss in (keras_tfcl.CoSENTLoss(), keras_tfcl.PairContrastiveLoss()):
        value, gradient = value_and_gradient(loss, same, BINARY)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_memory_does_not_grow_with_the_square_of_the_batch():
    """100,000 pairs: a matrix of pairs of pairs would take 80 GB."""
    rng = np.random.default_rng(1)
    x, scores = rng.normal(size=(100_000, 2, 3)).astype("float32"), rng.integers(0, 6, 100_000)
    value, gradient = value_and_gradient(keras_tfcl.CoSENTLoss(), x, scores)
    s = cosines(x.astype("float64"))
    lower = np.array([np.logaddexp.reduce(20 * s[scores < k]) if k else -np.inf for k in range(6)])
    expected = np.logaddexp(0, np.logaddexp.reduce(lower[scores] - 20 * s))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("loss", "slices"),
    [(keras_tfcl.CoSENTLoss(), 16), (keras_tfcl.PairContrastiveLoss(), None)],
    ids=["cosent", "pair"],
)
def test_it_trains_a_model_and_is_saved(tmp_path, loss, slices):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model = keras_tfcl.ContrastiveModel(encoder, supervised=True, seed=0, encoder_batch_size=slices)
    model.compile(keras.optimizers.Adam(0.1), loss=loss)
    first = np.random.default_rng(2).normal(size=(64, 6)).astype("float32")
    similar = (np.arange(64) % 2).astype("float32")
    second = np.where(similar[:, None] == 1, first[:, ::-1], np.roll(first, 1, axis=0))
    history = model.fit((first, second), similar, batch_size=32, epochs=12, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    scored = keras_tfcl.evaluation.pair_correlation(*model.predict((first, second), verbose=0), similar)
    assert scored > 0.5
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == loss.get_config()
    assert loaded.evaluate((first, second), similar, verbose=0) == model.evaluate((first, second), similar, verbose=0)


@pytest.mark.parametrize(
    ("loss", "scores", "shape", "message"),
    [
        (keras_tfcl.CoSENTLoss(), np.ones(4), (4, 3, 5), r"shape \(B, 2, D\)"),
        (keras_tfcl.CoSENTLoss(), np.ones(4), (4, 5), r"shape \(B, 2, D\)"),
        (keras_tfcl.CoSENTLoss(), np.ones(3), (4, 2, 5), "one score for each pair"),
        (keras_tfcl.CoSENTLoss(), np.ones((4, 2)), (4, 2, 5), "one score for each pair"),
        (keras_tfcl.CoSENTLoss(), np.array([1, np.nan, 2, 3]), (4, 2, 5), "finite numbers.*pair 1"),
        (keras_tfcl.PairContrastiveLoss(), np.array([1, 0, 0.5, 3]), (4, 2, 5), "0 or 1.*0.5 in pair 2"),
    ],
)
def test_data_that_is_refused(loss, scores, shape, message):
    x = np.random.default_rng(0).normal(size=shape)
    with pytest.raises(ValueError, match=message):
        loss(scores, x)
    if shape == (4, 2, 5) and scores.shape == (4,):
        value, _ = value_and_gradient(loss, x, scores, jit=False)
        assert np.isnan(value)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("loss", [keras_tfcl.InfoNCE(), keras_tfcl.CoSENTLoss(), keras_tfcl.PairContrastiveLoss()])
def test_weights_that_are_refused(loss, weight):
    weights = np.array([1.0, 1.0, weight, 1.0])
    x, y = np.random.default_rng(0).normal(size=(4, 2, 5)), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="finite and at least 0"):
        loss(y, x, weights)
    value, _ = value_and_gradient(loss, x, y, weights, jit=False)
    assert np.isnan(value)


def test_arguments_that_are_refused():
    for wrong in (lambda: keras_tfcl.CoSENTLoss(0), lambda: keras_tfcl.PairContrastiveLoss(2.5)):
        with pytest.raises(ValueError, match="must be"):
            wrong()
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="Pass supervised=True"):
        keras_tfcl.ContrastiveModel(encoder).compile(loss="cosent")
    with pytest.raises(ValueError, match="need a loss that compares embeddings with given candidates"):
        keras_tfcl.ContrastiveModel(encoder, supervised=True, momentum=0.9).compile(loss="pair_contrastive")
