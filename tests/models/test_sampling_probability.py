"""The streaming estimate of item probabilities against a dictionary in plain Python."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl

BIG = 10_007  # buckets enough that few items share one


def by_hand(batches, rate):
    last, gap = {}, {}
    for step, batch in enumerate(batches, 1):
        for item in set(batch):
            if item in last:
                since = step - last[item]
                gap[item] = (1 - rate) * gap[item] + rate * since if item in gap else since
            last[item] = step
    return {item: 1 / gap.get(item, last[item]) for item in last}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_equals_a_dictionary(compiled, rate):
    rng = np.random.default_rng(0)
    batches = [np.minimum(rng.geometric(0.2, 8), 12) * 10**11 for _ in range(40)]
    estimate = keras_tfcl.SamplingProbability(BIG, rate)
    step = tf.function(lambda x: estimate(x, training=True), jit_compile=True) if compiled else estimate
    for batch in batches:
        step(tf.constant(batch)) if compiled else estimate(batch, training=True)
    expected = by_hand([batch.tolist() for batch in batches], rate)
    received = estimate(np.array(list(expected))).numpy()
    np.testing.assert_allclose(received, list(expected.values()), rtol=1e-5)
    np.testing.assert_allclose(estimate(np.array([12345])).numpy(), 1 / 41)  # never seen in 40 batches


def test_approaches_the_probability_that_a_batch_holds_the_item():
    rng = np.random.default_rng(1)
    popularity = 1 / np.arange(1, 51)
    popularity /= popularity.sum()
    estimate = keras_tfcl.SamplingProbability(BIG, 0.02)
    step = tf.function(lambda x: estimate(x, training=True))
    for _ in range(2000):
        step(tf.constant(rng.choice(50, 16, p=popularity)))
    expected = 1 - (1 - popularity) ** 16
    received = estimate(np.arange(50)).numpy()
    assert np.abs(np.log(received / expected)).max() < 0.7
    assert np.corrcoef(received, expected)[0, 1] > 0.98


def test_hashing_spreads_items():
    estimate = keras_tfcl.SamplingProbability(1000)
    for items in (np.arange(500), np.arange(500) * 1000, np.arange(500) * 2**20, -np.arange(500)):
        buckets = estimate._bucket(items).numpy()
        assert buckets.min() >= 0
        assert len(np.unique(buckets)) > 300  # 393 of a random hash


def test_a_model_saves_its_state(tmp_path):
    items = keras.Input((1,), dtype="int64")
    model = keras.Model(items, keras_tfcl.SamplingProbability(50, 0.1)(items))
    for batch in ([[1], [2]], [[1], [3]], [[2], [1]]):
        model(np.array(batch), training=True)
    model.save(tmp_path / "q.keras")
    loaded = keras.models.load_model(tmp_path / "q.keras")
    ids = np.array([[1], [2], [3], [4]])
    np.testing.assert_array_equal(loaded(ids), model(ids))
    np.testing.assert_array_equal(loaded(ids, training=True), model(ids, training=True))


@pytest.mark.parametrize("arguments", [{"buckets": 0}, {"buckets": 1.5}, {"buckets": 9, "learning_rate": 0.0}])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        keras_tfcl.SamplingProbability(**arguments)


def test_items_that_are_no_integers_are_refused():
    with pytest.raises(ValueError, match="items"):
        keras_tfcl.SamplingProbability(9)(np.array([0.5, 1.0]))
