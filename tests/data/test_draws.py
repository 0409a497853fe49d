"""Augmenters draw new numbers in each view, batch and epoch; one that cannot is refused."""

import itertools
import random
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfcl.data import ViewPipeline
from keras_tfcl.data.draws import created_each_epoch

X = np.zeros((12, 3), "float32")
RNG = np.random.default_rng(0)


@pytest.fixture
def global_seed():
    keras.utils.set_random_seed(5)
    yield
    tf.random.set_seed(None)


def uniform(x):
    return x + tf.random.uniform(tf.shape(x))


def by_sample(x):
    return tf.map_fn(lambda row: row + tf.random.normal(tf.shape(row)), x, parallel_iterations=1)


def either(x):
    if tf.random.uniform([]) < 0.5:
        return x - tf.random.uniform(tf.shape(x))
    return x + tf.random.truncated_normal(tf.shape(x))


@keras.saving.register_keras_serializable(package="tests")
class Stateful(keras.layers.Layer):
    def call(self, x):
        return x + tf.random.gamma(tf.shape(x), 2.0)


def augmenters():
    """Made anew for each run: a tf.function keeps what it was traced with."""
    return {
        "function": uniform,
        "by sample": by_sample,
        "conditional": either,
        "tf.function": tf.function(lambda x: x + tf.random.normal(tf.shape(x))),
        "layer of tf.random": Stateful(),
        "keras layer": keras.layers.GaussianNoise(0.5),
        "keras layers": keras.Sequential([keras.layers.GaussianNoise(0.5), keras.layers.GaussianNoise(0.1)]),
    }


def epochs(augmenter, count, first=0, seed=3):
    """The views of some epochs, (epochs * 4, 2, 3, 3)."""
    step = first
    batches = ViewPipeline(augmenter, 2, seed).batches(X, batch_size=3, step=lambda: step)
    assert batches.cardinality() == 4
    seen = []
    for _ in range(count):
        seen += [views for (views,) in batches.as_numpy_iterator()]
        step += 4
    return np.array(seen)


@pytest.mark.parametrize("kind", augmenters())
def test_under_a_global_seed_draws_are_new_and_reproducible(kind, global_seed):
    """No draw comes twice; a second run has the same ones, and a resumed one continues with them."""
    views = epochs(augmenters()[kind], 3)
    assert len(np.unique(views.reshape(-1, 3), axis=0)) == 3 * 2 * len(X)
    again = augmenters()[kind]
    if kind == "tf.function":
        again(tf.constant(X))  # traced with the global seed, before the run
    np.testing.assert_array_equal(epochs(again, 3), views)
    np.testing.assert_array_equal(epochs(augmenters()[kind], 1, first=8), views[8:])
    assert not np.isin(epochs(augmenters()[kind], 1, seed=4), views).any()


@pytest.mark.parametrize("kind", augmenters())
def test_without_a_global_seed_draws_are_new(kind):
    views = epochs(augmenters()[kind], 3)
    assert len(np.unique(views.reshape(-1, 3), axis=0)) == 3 * 2 * len(X)


def test_keras_layers_follow_the_seed_of_the_run():
    views = epochs(keras.layers.GaussianNoise(0.5, seed=1), 2)
    np.testing.assert_array_equal(epochs(keras.layers.GaussianNoise(0.5, seed=9), 1, first=4), views[4:])


def test_generators_keep_their_own_state():
    """Of Keras and of TensorFlow."""
    generator, other = keras.random.SeedGenerator(1), tf.random.Generator.from_seed(1)
    for augmenter in (
        lambda x: x + keras.random.normal(tf.shape(x), seed=generator),
        lambda x: x + other.normal(tf.shape(x)),
    ):
        views = epochs(augmenter, 2)
        assert not np.isin(views[4:], views[:4]).any()


NUMBERS = itertools.count()


@pytest.mark.parametrize(
    "augmenter",
    [
        lambda x: x + np.random.normal(size=3).astype("float32"),
        lambda x: x * RNG.uniform(),
        lambda x: x + random.random(),
        lambda x: tf.map_fn(lambda row: row + random.random(), x),
        lambda x: x + tf.random.stateless_normal(tf.shape(x), [next(NUMBERS), 0]),
    ],
)
def test_numbers_drawn_while_tracing_are_refused(augmenter):
    message = (
        r"draw with TensorFlow or Keras\. Received: `<lambda>`, whose numbers change each time.*`augment\(x, seed\)`"
    )
    with pytest.raises(ValueError, match=message):
        epochs(augmenter, 1)


@pytest.mark.parametrize(
    ("augmenter", "operation"),
    [
        (lambda x: x + tf.random.uniform(tf.shape(x), seed=2), "RandomUniform"),
        (lambda x: tf.map_fn(lambda row: row + tf.random.normal((3,), seed=2), x), "RandomStandardNormal"),
        (lambda x: tf.random.shuffle(x, seed=2), "RandomShuffle"),
    ],
)
def test_seeded_operations_are_refused(augmenter, operation):
    message = (
        rf"draw new numbers for each view\. Received: `<lambda>`, whose {operation} has the fixed seed 2.*SeedGenerator"
    )
    with pytest.raises(ValueError, match=message):
        epochs(augmenter, 1)


SAMPLES = tf.data.Dataset.from_tensor_slices(X).batch(3)


@pytest.mark.parametrize("draw", [uniform, by_sample, lambda x: x + tf.random.normal(tf.shape(x), seed=2)])
def test_data_sets_that_repeat_their_draws_are_noticed(draw, global_seed):
    views = SAMPLES.map(lambda x: ((draw(x), draw(x)),)).prefetch(1)
    with pytest.warns(UserWarning, match=r"draws with Random\w+ under a fixed seed.*views repeat\. Give samples"):
        batches = ViewPipeline(None, 2, 0).batches(views)
    first, second = (np.array(list(batches.as_numpy_iterator())) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # as the warning says


def test_data_sets_that_draw_anew_are_left_alone(global_seed):
    generator = tf.random.Generator.from_seed(1)
    views = SAMPLES.map(lambda x: ((x + generator.normal(tf.shape(x)), x),))
    batches = ViewPipeline(None, 2, 0).batches(views)
    first, second = (np.array(list(batches.as_numpy_iterator())) for _ in range(2))
    assert not (first[:, 0, 0] == second[:, 0, 0]).any()
    ViewPipeline(None, 2, 0).batches(SAMPLES.map(lambda x: ((uniform(x), x),)).repeat())
    ViewPipeline(None, 2, 0).batches(SAMPLES.shuffle(4, seed=1).map(lambda x: ((x, x + 1),)))


def test_data_sets_without_a_seed_are_left_alone():
    ViewPipeline(None, 2, 0).batches(SAMPLES.map(lambda x: ((uniform(x), x),)))


@pytest.mark.parametrize(("steps", "epochs", "expected"), [(4, [0, 4, 8], [0, 4, 8, 12]), (0, [0, 0, 0], [0])])
def test_the_next_epoch_is_created_ahead_and_none_twice(steps, epochs, expected):
    made, step = [], 0

    def make(start):
        made.append(start)
        return tf.data.Dataset.from_tensors(np.int64(start))

    starts = tf.data.Dataset.from_tensors(0).map(lambda _: tf.numpy_function(lambda: np.int64(step), [], tf.int64))
    dataset = created_each_epoch(make, starts, 0, steps)
    for step in epochs:  # read by the data set
        assert list(dataset.as_numpy_iterator()) == [step]
    for _ in range(100):
        if len(made) == len(expected):
            break
        time.sleep(0.05)
    assert made == expected
