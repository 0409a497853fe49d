"""Batches of views from everything that `fit` takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfcl.data import ViewPipeline
from keras_tfcl.layers import image_augmenter

X = np.arange(10, dtype="float32")[:, None]
Y = np.arange(10) % 3


class PlusNoise:
    """A view that tells its instance (the whole part) and its seed (the fraction)."""

    def augment(self, x, seed):
        return x + tf.random.stateless_uniform(tf.shape(x), seed, maxval=0.5)


def pipeline(views=2, seed=7, augmenter=PlusNoise):
    return ViewPipeline(augmenter() if augmenter else None, views, seed)


def read(batches):
    return list(tf.data.Dataset.as_numpy_iterator(batches))


def instances(view):
    return np.floor(view[:, 0]).astype(int)


def test_arrays_give_every_instance_in_each_epoch():
    batches = pipeline().batches(X, Y, batch_size=5)
    assert batches.cardinality() == 2
    for _ in range(2):
        epoch = read(batches)
        assert sorted(np.concatenate([instances(views[0]) for views, _ in epoch])) == list(range(10))
        for (first, second), y in epoch:
            np.testing.assert_array_equal(instances(first), instances(second))
            np.testing.assert_array_equal(Y[instances(first)], y)
            assert (first != second).all()


def test_rows_left_over():
    """Left out in training, unless they are all there is; a smaller batch in validation."""
    sizes = [len(views[0]) for (views,) in read(pipeline().batches(X, batch_size=4))]
    assert sizes == [4, 4]
    assert [len(views[0]) for (views,) in read(pipeline().batches(X))] == [10]
    with pytest.raises(ValueError, match="batch_size=40 for 10 samples"):
        pipeline().batches(X, batch_size=40)
    validation = pipeline().batches(X, batch_size=4, training=False)
    assert validation.cardinality() == 3
    assert [len(views[0]) for (views,) in read(validation)] == [4, 4, 2]
    assert list(np.concatenate([instances(views[0]) for (views,) in read(validation)])) == list(range(10))


def test_three_views_and_sample_weight():
    (views, y, weight), *_ = read(pipeline(views=3).batches(X, Y, X[:, 0], batch_size=5))
    assert len(views) == 3
    np.testing.assert_array_equal(weight, instances(views[2]))
    np.testing.assert_array_equal(y, Y[instances(views[2])])


def test_a_resumed_run_sees_the_batches_it_would_have_seen():
    """Order and views depend on the seed and the step an epoch starts with, on nothing else."""
    step = 0

    def epoch(batches):
        nonlocal step
        seen = read(batches)
        step += len(seen)
        return np.array([views for (views,) in seen])

    batches = pipeline().batches(X, batch_size=5, step=lambda: step)
    first, second = epoch(batches), epoch(batches)
    assert not np.array_equal(instances(first[0, 0]), instances(second[0, 0]))
    resumed = pipeline().batches(X, batch_size=5, step=lambda: 2)
    np.testing.assert_array_equal(read(resumed)[1][0][1], second[1, 1])
    other_seed = pipeline(seed=8).batches(X, batch_size=5, step=lambda: 2)
    assert not np.array_equal(read(other_seed)[1][0][1], second[1, 1])


def test_validation_views_are_the_same_each_time():
    batches = pipeline().batches(X, batch_size=5, training=False)
    np.testing.assert_array_equal(read(batches)[1][0][0], read(batches)[1][0][0])


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("kind", ["dataset", "pydataset", "generator"])
def test_sources_that_bring_their_own_batches(kind, with_labels):
    elements = [(X[i : i + 5], Y[i : i + 5]) if with_labels else X[i : i + 5] for i in (0, 5)]
    if kind == "dataset":
        source = tf.data.Dataset.from_tensor_slices((X, Y) if with_labels else X).batch(5)
        batches = pipeline().batches(source)
        assert batches.cardinality() == 2
        seen = read(batches)
    elif kind == "pydataset":

        class Batches(keras.utils.PyDataset):
            num_batches = 2

            def __getitem__(self, index):
                return elements[index]

        batches = pipeline().batches(Batches(workers=2))
        assert (batches.num_batches, batches.workers) == (2, 2)
        seen = [batches[0], batches[1]]
    else:
        seen = list(pipeline().batches(iter(elements)))
    for i, (views, *rest) in enumerate(seen):
        np.testing.assert_array_equal(instances(np.asarray(views[1])), np.arange(5) + 5 * i)
        assert len(rest) == with_labels
        if with_labels:
            np.testing.assert_array_equal(rest[0], Y[5 * i : 5 * i + 5])


def test_views_of_a_generator_do_not_depend_on_when_it_is_read():
    """The step moves on while Keras reads ahead."""
    steps = iter(range(3, 100))
    seen = [views for (views,) in pipeline().batches(iter([X] * 3), step=lambda: next(steps))]
    expected = read(pipeline().batches(tf.data.Dataset.from_tensors(X).repeat(3), step=lambda: 3))
    np.testing.assert_array_equal(np.array(seen), np.array([views for (views,) in expected]))


def test_no_augmentation_in_forked_processes():
    class Batches(keras.utils.PyDataset):
        num_batches = 2

    source = Batches(workers=2, use_multiprocessing=True)
    assert not pipeline().batches(source).use_multiprocessing
    assert pipeline(augmenter=None).batches(source).use_multiprocessing


@pytest.mark.parametrize("as_dataset", [False, True])
@pytest.mark.parametrize("y", [None, Y])
def test_ready_made_views_pass_unchanged(as_dataset, y):
    x = (X, X + 100)
    if as_dataset:
        x = tf.data.Dataset.from_tensor_slices((x,) if y is None else (x, y)).batch(5)
        batches = pipeline(augmenter=None).batches(x)
    else:
        batches = pipeline(augmenter=None).batches(x, y, batch_size=5, training=False)
    (first, second), *rest = read(batches)[1]
    np.testing.assert_array_equal(first, X[5:])
    np.testing.assert_array_equal(second, X[5:] + 100)
    assert len(rest) == (y is not None)


def test_structured_instances():
    """One instance may be several arrays; a plain function makes views too, with a randomness of its own."""
    x = {"a": X, "b": X + 100}
    augmenter = ViewPipeline(
        lambda x: {"a": x["a"] + tf.random.uniform(tf.shape(x["a"]), maxval=0.9), "b": x["b"]}, 2, 0
    )
    ((first, second),), *_ = read(augmenter.batches(x, batch_size=5))
    np.testing.assert_array_equal(first["b"], second["b"])
    np.testing.assert_array_equal(instances(first["a"]) + 100, first["b"][:, 0])
    assert (first["a"] != second["a"]).all()


def test_views_of_unequal_parts():
    """Samples of unequal sizes come as several arrays, of which the first has a row for each sample."""
    view = {"counts": np.array([2, 1]), "nodes": np.zeros((3, 4))}
    source = pipeline(augmenter=None).batches(iter([((view, {**view, "nodes": np.zeros((5, 4))}),)]))
    assert [part["nodes"].shape for part in next(source)[0]] == [(3, 4), (5, 4)]
    for other in ({**view, "nodes": np.zeros((3, 5))}, {**view, "counts": np.array([1, 1, 1])}):
        with pytest.raises(ValueError, match="views of a sample must have one shape"):
            next(pipeline(augmenter=None).batches(iter([((view, other),)])))


def test_parallel_augmentation_is_reproducible():
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), "uint8")
    augmented = ViewPipeline(image_augmenter("photos", (8, 8, 3)), 2, 3)
    runs = [read(augmented.batches(images, batch_size=8)) for _ in range(2)]
    np.testing.assert_array_equal(np.array(runs[0]), np.array(runs[1]))


def test_instances_without_augmenter():
    with pytest.raises(
        ValueError, match=r"needs 2 different views.*no augmenter\. Pass `augmenter=`.*ready-made views"
    ):
        pipeline(augmenter=None).batches(X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, Y[:9]), r"equally many samples\. Received: \[10, 9\]"),
        ((X[:0],), r"at least one sample\. Received: an empty data set"),
        ((X, None, X[:, 0]), r"`sample_weight` needs y"),
        (((X, np.zeros((10, 2))),), r"views of a sample must have one shape\. Received: .*\(None, 1\).*\(None, 2\)"),
    ],
)
def test_bad_data(arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline().batches(*arguments, batch_size=5, training=False)


def test_forked_workers_use_no_tensorflow():
    """It may hang there. Views that cannot be made are still refused."""

    class Batches(keras.utils.PyDataset):
        num_batches = 1

        def __getitem__(self, index):
            return (X, X.copy()) if self.views else X

    source = Batches(workers=2, use_multiprocessing=True)
    source.views = True
    views, y = pipeline(augmenter=None, views=1).batches(source)[0]
    assert [type(part) for part in (*views, y)] == [np.ndarray] * 2
    source.views = False
    with pytest.raises(ValueError, match="no augmenter"):
        pipeline(augmenter=None).batches(source)[0]
