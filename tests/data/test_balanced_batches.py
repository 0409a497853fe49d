"""Batches with several samples of each of their classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.data import balanced_batches

SIZES = (1, 2, 3, 7, 20)
Y = np.repeat(np.array([5, 9, -3, 2**40, 7]), SIZES)
X = np.arange(len(Y), dtype="float32")[:, None]


def run(passes=1, **options):
    data = balanced_batches(X, Y, **{"classes": 3, "per_class": 2, **options})
    return [[(x.numpy(), y.numpy()) for x, y in data] for _ in range(passes)]


@pytest.mark.parametrize(("classes", "per_class"), [(2, 2), (3, 2), (5, 4)])
def test_every_batch_has_its_classes_and_samples(classes, per_class):
    (batches,) = run(classes=classes, per_class=per_class)
    assert len(batches) == max(33 // (classes * per_class), 1)
    for x, y in batches:
        labels, counts = np.unique(y, return_counts=True)
        assert len(labels) == classes and set(counts) == {per_class}
        np.testing.assert_array_equal(Y[x[:, 0].astype(int)], y)  # samples keep their labels
        for label, size in zip((5, 9, -3, 2**40, 7), SIZES, strict=True):
            mine = x[y == label, 0]
            assert len(set(mine)) == min(len(mine), size)  # only a class that is too small repeats within a batch


def test_classes_are_drawn_equally_often_and_samples_take_turns():
    (batches,) = run(classes=2, per_class=2)
    labels = np.concatenate([y[::2] for _, y in batches])
    _, counts = np.unique(labels, return_counts=True)
    assert counts.max() - counts.min() <= 1
    seen = np.concatenate([x[y == 7, 0] for x, y in batches])
    assert len(set(seen)) == len(seen)  # twenty samples, none again before all were there


def test_the_order_follows_from_seed_and_step():
    def flat(passes):
        return [np.concatenate([x for x, _ in batches]) for batches in passes]

    one, other = flat(run(passes=2)), flat(run(passes=2))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], flat(run(seed=1))[0])


def test_structures_and_data_sets():
    both = balanced_batches({"a": X, "b": (X + 1,)}, Y, 2, 2)
    x, _ = next(iter(both))
    np.testing.assert_array_equal(x["a"] + 1, x["b"][0])
    single = tf.data.Dataset.from_tensor_slices((X, Y))
    for (a, b), (c, d) in zip(balanced_batches(single, None, 2, 2), balanced_batches(X, Y, 2, 2), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


def test_fit_takes_them_and_every_anchor_has_a_positive():
    seen = []

    class Recording(keras_tfcl.ContrastiveModel):
        def train_step(self, data):
            seen.append(data[0][0].numpy())
            return super().train_step(data)

    encoder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(4)])
    model = Recording(encoder, views=1, supervised=True)
    model.compile("sgd", keras_tfcl.InfoNCE(0.5), run_eagerly=True)
    data = balanced_batches(X, Y, 3, 2)
    # Validation with the same data set does not start its passes anew.
    history = model.fit(data, epochs=2, steps_per_epoch=len(data), validation_data=data, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert len(seen) == 2 * len(data) and not np.array_equal(seen[: len(data)], seen[len(data) :])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 6}, r"`classes` must not exceed .* Received: classes=6 for 5 classes"),
        ({"classes": 1}, r"`classes` must be an integer of at least 2\. Received: classes=1"),
        ({"per_class": 1}, r"`per_class` must be an integer of at least 2\. Received: per_class=1"),
        ({"y": Y[1:]}, r"`y` must have one label for each sample\. Received: 32 labels for \[33\] samples"),
        ({"y": Y.astype(float)}, r"`y` must be integer labels .* Received: shape=\(33,\), dtype=float64"),
        ({"y": Y[:, None]}, r"`y` must be integer labels .* Received: shape=\(33, 1\)"),
        ({"x": tf.data.Dataset.range(3), "y": None}, r"must have elements \(x, y\), one sample each"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        balanced_batches(**{"x": X, "y": Y, "classes": 2, "per_class": 2, **arguments})
