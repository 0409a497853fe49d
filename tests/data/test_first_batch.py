"""The first batch of a run is looked at: one warning for what teaches nothing, none for what does."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.data import ViewPipeline
from keras_tfcl.data.inputs import brings_batches
from keras_tfcl.layers import ImageAugmenter

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 3)).astype("float32")


class Batches(keras.utils.PyDataset):
    num_batches = 2

    def __getitem__(self, index):
        return X[8 * index : 8 * index + 8]


SOURCES = {
    "arrays": lambda: X,
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(X).batch(8),
    "pydataset": Batches,
    "generator": lambda: (X[i : i + 8] for i in (0, 8)),
}


def warned(x, y=None, augmenter=None, views=2, batch_size=8, **options):
    """The warnings of one epoch, read twice where that can be done."""
    pipeline = ViewPipeline(augmenter, views, 0, **options)
    size = None if brings_batches(x) else batch_size
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batches = pipeline.batches(x, y, batch_size=size)
        if isinstance(batches, keras.utils.PyDataset):
            batches = [batches[0], batches[1], batches[0]]
        elif isinstance(batches, tf.data.Dataset):
            batches = [*batches, *batches]
        list(batches)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("source", SOURCES)
def test_equal_views(source):
    """An identity, a constant draw, ready-made copies."""
    (message,) = warned(SOURCES[source](), augmenter=lambda x: x * 2)
    assert message.startswith("The views of each sample are equal in the first batch")
    for part in ("augment(x, seed)", "keras.layers.GaussianNoise", "SeedGenerator", "dropout"):
        assert part in message
    assert warned(SOURCES[source](), augmenter=keras.layers.GaussianNoise(0.1)) == []


def test_equal_views_that_are_given():
    assert "equal in the first batch" in warned((X, X.copy()))[0]
    assert "equal in the first batch" in warned((X, X + 1, X), views=3)[0]
    assert warned((X, X + 1)) == []
    assert warned((X, X.copy()), paired=True) == []  # inputs of two encoders may be equal
    texts = np.array(["one", "two", "three", "four"] * 2)
    assert "equal in the first batch" in warned((texts, texts))[0]
    assert warned((texts, texts[::-1])) == []
    assert warned((X[:2], X[:2]), batch_size=2) == []  # by chance?


def test_samples_that_come_out_alike():
    """The augmenter ignores its argument, or leaves nothing of it."""
    (message,) = warned(X, augmenter=lambda x: tf.zeros_like(x) + tf.random.normal((3,)))
    assert message.startswith("Different samples come out of the augmenter as the same view")
    (message,) = warned(X, augmenter=lambda x: tf.clip_by_value(x, 9.0, 10.0) + tf.random.uniform([]))
    assert message.startswith("Different samples come out")
    assert warned(np.zeros((16, 3), "float32"), augmenter=keras.layers.GaussianNoise(0.1)) == []


def test_one_draw_for_all_samples():
    (message,) = warned(X, augmenter=lambda x: x + tf.random.normal((3,)))
    assert message.startswith("The augmenter changes all samples of the first batch in the same way")
    assert "tf.random.normal(tf.shape(x))" in message
    images = RNG.uniform(0, 255, (16, 4, 4, 3)).astype("float32")
    assert "in the same way" in warned(images, augmenter=lambda x: tf.image.random_brightness(x, 50.0))[0]
    by_sample = lambda x: x + tf.random.uniform((tf.shape(x)[0], 1, 1, 1), 0, 50.0)  # noqa: E731
    assert warned(images, augmenter=by_sample) == []


def test_odd_batches_are_no_trouble():
    """Other structures, other shapes, NaN and Inf: nothing to say, and no error."""
    noise = keras.layers.GaussianNoise(0.1)
    assert warned({"a": X, "b": X[:, 0]}, augmenter=lambda x: x["a"] + tf.random.normal(tf.shape(x["a"]))) == []
    assert warned(X, augmenter=lambda x: tf.reverse(noise(x, training=True), [1])[:, :2]) == []
    broken = np.where(X > 1, np.nan, np.where(X < -1, np.inf, X)).astype("float32")
    assert warned(broken, augmenter=noise) == []


@pytest.mark.parametrize("source", SOURCES)
def test_one_sample_has_no_negatives(source, monkeypatch):
    monkeypatch.setattr(f"{__name__}.X", X[:1])
    x = SOURCES[source]()
    (message,) = warned(x, augmenter=keras.layers.GaussianNoise(0.1), batch_size=1)
    assert message.startswith("The first batch has one sample") and "queue_size" in message
    assert warned(SOURCES[source](), augmenter=keras.layers.GaussianNoise(0.1), batch_size=1, in_batch=False) == []
    assert "one sample" in warned((X, X + 1), batch_size=1, paired=True)[0]


def test_pixels_out_of_range():
    images = RNG.random((16, 8, 8, 3)).astype("float32")

    def augmenter(**options):
        return ImageAugmenter([keras.layers.RandomFlip(), keras.layers.RandomBrightness(0.2)], **options)

    (message,) = warned(images, augmenter=augmenter())
    assert "values 0 to 255. Received: values 0.0" in message and "value_range=(lowest, highest)" in message
    assert warned(images, augmenter=augmenter(value_range=(0, 1))) == []
    assert warned((images * 255).astype("uint8"), augmenter=augmenter()) == []


@pytest.mark.parametrize("source", ["arrays", "dataset", "generator"])
def test_labels_that_never_meet(source):
    y = np.arange(16)
    y[1] = 0
    make = {
        "arrays": lambda y: (X, y),
        "dataset": lambda y: (tf.data.Dataset.from_tensor_slices((X, y)).batch(16),),
        "generator": lambda y: (iter([(X, y)]),),
    }[source]
    options = {"views": 1, "batch_size": 16}
    (message,) = warned(*make(y), labels_decide=True, **options)
    assert message.startswith("Only 2 of 16 samples (12%) of the first batch have a positive")
    assert "larger batches" in message and "each class" in message
    assert warned(*make(y), **options) == []
    assert warned(*make(np.arange(16) % 4), labels_decide=True, **options) == []


def test_fit_says_it_once():
    """In graph mode; and nothing where a queue or a second view brings positives."""
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])

    def fit(x, **options):
        model = keras_tfcl.ContrastiveModel(encoder, supervised=True, seed=0, **options)
        model.compile("sgd", "infonce")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(x, np.arange(16), batch_size=8, epochs=2, verbose=0)
        return [str(warning.message) for warning in caught if "positive" in str(warning.message)]

    (message,) = fit(X, views=1)
    assert message.startswith("Only 0 of 8 samples (0%)")
    assert fit((X, X + 0.1)) == []
    assert fit(X, views=1, momentum=0.9, queue_size=16) == []
