"""EffectiveRank against its definition, with the covariance by a double loop in NumPy float64."""

import keras
import numpy as np
import pytest

import keras_tfcl
from keras_tfcl.metrics import EffectiveRank

D = 6


def by_hand(rows, weights=None):
    """exp of the entropy of the singular values of the centred unit rows."""
    unit = [row / np.linalg.norm(row) for row in np.asarray(rows, "float64")]
    weights = np.ones(len(unit)) if weights is None else weights
    mean = sum(w * u for w, u in zip(weights, unit, strict=True)) / sum(weights)
    covariance = np.zeros((len(mean), len(mean)))
    for w, u in zip(weights, unit, strict=True):
        for i in range(len(mean)):
            for j in range(len(mean)):
                covariance[i, j] += w * (u[i] - mean[i]) * (u[j] - mean[j]) / sum(weights)
    sigma = np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 0))
    share = sigma[sigma > 0] / sigma.sum()
    return np.exp(-np.sum(share * np.log(share)))


def random_rows(seed, count=11, shape=()):
    """Rows that prefer some directions."""
    return np.random.default_rng(seed).normal(size=(count, *shape, D)) * np.geomspace(1, 0.02, D)


def measured(*batches, **options):
    metric = EffectiveRank(**options)
    for rows, weights in batches:
        metric.update_state(np.arange(len(rows)), rows, sample_weight=weights)
    return float(metric.result())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_the_definition(dtype):
    rows = random_rows(0).astype(dtype)
    expected = by_hand(rows)
    assert measured((rows, None)) == pytest.approx(expected, rel=1e-6)
    assert 2 < expected < 5  # there is something to tell


def test_streams_over_unequal_batches_and_views():
    first, second = random_rows(1, 5, (2,)), random_rows(2, 3, (2,))
    everything = np.concatenate([first.reshape(-1, D), second.reshape(-1, D)])
    assert measured((first, None), (second, None)) == pytest.approx(by_hand(everything), rel=1e-6)
    assert measured((first, None), (second, None), dimension=D) == pytest.approx(by_hand(everything), rel=1e-6)


def test_weights_count():
    rows, weights = random_rows(3), np.random.default_rng(4).uniform(0, 2, 11)
    assert measured((rows, weights)) == pytest.approx(by_hand(rows, weights), rel=1e-6)
    assert measured((rows, weights)) != pytest.approx(by_hand(rows), rel=1e-3)


def test_ignores_the_length_of_embeddings():
    rows = random_rows(5)
    scaled = rows * np.random.default_rng(6).uniform(0.1, 1000, (11, 1))
    assert measured((rows, None)) == pytest.approx(measured((scaled, None)), rel=1e-9)


def test_even_sphere_has_nearly_every_dimension():
    rows = np.random.default_rng(7).normal(size=(20_000, 32)).astype("float32")
    assert measured((rows, None)) == pytest.approx(32, rel=0.002)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_rows_of_a_few_axes(rank):
    """+-e_1, ..., +-e_rank: that many equal singular values."""
    axes = np.eye(D, dtype="float32")[:rank]
    assert measured((np.concatenate([axes, -axes]), None)) == pytest.approx(rank, rel=1e-6)


def test_a_point_has_rank_zero_and_nothing_seen_too():
    point = np.broadcast_to(np.random.default_rng(8).normal(size=D).astype("float32"), (50, D))
    assert measured((point * np.linspace(1, 9, 50, dtype="float32")[:, None], None)) == 0.0
    assert float(EffectiveRank().result()) == 0.0
    assert float(EffectiveRank(D).result()) == 0.0


def test_a_broken_embedding_shows():
    rows = random_rows(9)
    rows[3, 2] = np.nan
    assert np.isnan(measured((rows, None)))


def test_reset_forgets():
    metric = EffectiveRank()
    metric.update_state(np.arange(11), random_rows(10))
    metric.reset_state()
    metric.update_state(np.arange(11), random_rows(11))
    assert float(metric.result()) == pytest.approx(by_hand(random_rows(11)), rel=1e-6)


def test_sizes_must_agree():
    metric = EffectiveRank()
    metric.update_state([0, 1], np.eye(2))
    with pytest.raises(ValueError, match=r"embeddings of size 2, as so far. Received: size 3"):
        metric.update_state([0, 1, 2], np.eye(3))


def test_in_fit_and_after_reload(tmp_path):
    """The variables are made when the size is seen, inside the traced step."""
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(D, use_bias=False)])
    model = keras_tfcl.ContrastiveModel(encoder)
    model.compile(keras.optimizers.SGD(0.0), keras_tfcl.InfoNCE(0.5), metrics=[EffectiveRank()], jit_compile=True)
    views = tuple(np.random.default_rng(i).normal(size=(16, 4)).astype("float32") for i in range(2))
    history = model.fit(views, batch_size=8, verbose=0).history
    expected = by_hand(np.concatenate(views) @ encoder.get_weights()[0].astype("float64"))
    assert history["effective_rank"] == pytest.approx([expected], rel=1e-3)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    again.run_eagerly = True
    logs = again.evaluate(views, batch_size=8, verbose=0, return_dict=True)
    assert logs["effective_rank"] == pytest.approx(expected, rel=1e-3)
