"""TensorBoard's images and scalars, read back from the event files."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.callbacks import EmbeddingImages, KNNEvaluation

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 6, 4, 3), "uint8")


def contrastive_model(*layers):
    layers = layers or [keras.layers.RandomBrightness(0.1)]
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((6, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
    model = keras_tfcl.ContrastiveModel(encoder, augmenter=keras_tfcl.layers.ImageAugmenter(layers))
    model.compile(keras.optimizers.SGD(1e-6), keras_tfcl.InfoNCE(0.5), run_eagerly=True)
    return model


def summaries(folder):
    """The values of all event files, as (tag, step) -> tensor."""
    found = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found[value.tag, event.step] = tf.make_ndarray(value.tensor)
    return found


def image_of(entry):
    """The image of a summary: width, height, PNG."""
    width, height, png = entry
    image = tf.io.decode_png(png).numpy()
    assert image.shape[:2] == (int(height), int(width))
    return image


def test_neighbours_are_the_nearest_by_cosine(tmp_path):
    model = contrastive_model()
    show = EmbeddingImages(tmp_path, IMAGES, queries=2, neighbours=3, every=2)
    model.fit(IMAGES, batch_size=3, epochs=4, verbose=0, callbacks=[show])
    found = summaries(tmp_path)
    assert set(found) == {("views", 0), ("nearest_neighbours", 1), ("nearest_neighbours", 3)}
    grid = image_of(found["nearest_neighbours", 3])
    assert grid.shape == (2 * 6, 4 * 4, 3)
    rows = np.asarray(model.encoder(IMAGES), "float64")
    for row in range(2):
        cosines = [rows[row] @ other / np.linalg.norm(rows[row]) / np.linalg.norm(other) for other in rows]
        order = [i for i in np.argsort(cosines)[::-1] if i != row][:3]
        expected = np.concatenate([IMAGES[i] for i in (row, *order)], axis=1)
        np.testing.assert_array_equal(grid[row * 6 : row * 6 + 6], expected)


def test_views_stand_beside_their_image(tmp_path):
    crop, enlarge = keras.layers.CenterCrop(3, 2), keras.layers.UpSampling2D((2, 2))
    model = contrastive_model(crop, enlarge)
    model.fit(IMAGES, batch_size=3, verbose=0, callbacks=[EmbeddingImages(tmp_path, IMAGES, queries=2, neighbours=2)])
    grid = image_of(summaries(tmp_path)["views", 0])
    np.testing.assert_array_equal(grid[6:, :4], IMAGES[1])
    view = np.repeat(np.repeat(IMAGES[1][1:4, 1:3], 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(grid[6:, 4:], np.concatenate([view, view], axis=1))


def test_images_of_another_range_are_shown_as_their_bytes(tmp_path):
    encoder = keras.Sequential([keras.Input((6, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
    encoder.compile("sgd", "mse", run_eagerly=True)
    scaled = IMAGES / np.float32(127.5) - 1
    with pytest.raises(ValueError, match=r"values 0 to 255\. Received: values -1 to 1\..*value_range=\(0, 1\)"):
        EmbeddingImages(tmp_path, scaled)
    with pytest.raises(ValueError, match=r"values 0 to 255\. Received: values 0 to 1\."):
        EmbeddingImages(tmp_path, IMAGES / 255)
    show = EmbeddingImages(tmp_path, scaled, queries=2, neighbours=1, value_range=(-1, 1))
    encoder.fit(scaled, np.zeros((9, 5)), verbose=0, callbacks=[show])
    grid = image_of(summaries(tmp_path)["nearest_neighbours", 0])
    np.testing.assert_array_equal(grid[:6, :4], IMAGES[0])


def test_fewer_images_than_neighbours(tmp_path):
    encoder = keras.Sequential([keras.Input((6, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])
    encoder.compile("sgd", "mse", run_eagerly=True)
    show = EmbeddingImages(tmp_path, IMAGES[:3])
    encoder.fit(IMAGES[:3], np.zeros((3, 5)), verbose=0, callbacks=[show])
    found = summaries(tmp_path)
    assert set(found) == {("nearest_neighbours", 0)}  # an encoder has no augmenter
    assert image_of(found["nearest_neighbours", 0]).shape == (3 * 6, 3 * 4, 3)


@pytest.mark.parametrize("x", [np.ones((5, 3)), np.ones((5, 4, 4, 2)), IMAGES[:1]])
def test_what_is_no_set_of_images_is_named(tmp_path, x):
    with pytest.raises(ValueError, match=r"at least two images of shape .*Received: shape=\("):
        EmbeddingImages(tmp_path, x)


def test_a_machine_without_tensorboard_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install \"keras-tfcl\[tensorboard\]\""):
        EmbeddingImages(tmp_path, IMAGES)


def test_keras_logs_the_accuracy_as_a_scalar(tmp_path):
    pytest.importorskip("sklearn")
    labels = np.arange(9) % 2
    knn = KNNEvaluation((IMAGES, labels), (IMAGES, labels), k=1)
    board = keras.callbacks.TensorBoard(tmp_path)
    history = contrastive_model().fit(IMAGES, batch_size=3, verbose=0, callbacks=[knn, board]).history
    scalars = {tag: value for (tag, _), value in summaries(tmp_path).items() if tag.startswith("epoch_")}
    assert scalars["epoch_knn_accuracy"] == history["knn_accuracy"][0] == 1.0
    np.testing.assert_allclose(scalars["epoch_loss"], history["loss"][0], rtol=1e-6)
