import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfcl.callbacks import EmbeddingProjector
from keras_tfcl.callbacks.image_grid import sprite

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 3, 3), "uint8")


def fit(callback, shape=(5, 3, 3), x=IMAGES):
    encoder = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(4)])
    encoder.compile("sgd", "mse", run_eagerly=True)
    encoder.fit(x, np.zeros((len(x), 4)), epochs=2, verbose=0, callbacks=[callback])
    return encoder


def test_files_hold_embeddings_labels_and_images(tmp_path):
    names = ["cat", "dog\twith tab", "cat", "x", "y", "z", "w"]
    encoder = fit(EmbeddingProjector(tmp_path / "logs", IMAGES, names, max_samples=5))
    logs = tmp_path / "logs"
    assert {f.name for f in logs.iterdir()} == {
        "embeddings.tsv", "metadata.tsv", "sprite.png", "projector_config.pbtxt"
    }  # fmt: skip
    np.testing.assert_allclose(np.loadtxt(logs / "embeddings.tsv"), encoder(IMAGES[:5]), rtol=1e-4)
    assert (logs / "metadata.tsv").read_text().split("\n") == ["cat", "dog with tab", "cat", "x", "y"]
    grid = tf.io.decode_png((logs / "sprite.png").read_bytes()).numpy()
    assert grid.shape == (15, 9, 3)  # 3 x 3 images
    np.testing.assert_array_equal(grid[5:10, 0:3], IMAGES[3])
    assert not grid[10:, 3:].any()
    config = (logs / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "embeddings.tsv"' in config and config.count("{") == config.count("}") == 2
    assert "single_image_dim: 3 single_image_dim: 5" in config  # width first


def test_without_images_there_is_no_sprite(tmp_path):
    x = np.ones((6, 8), "float32")
    fit(EmbeddingProjector(tmp_path, x, every=1), (8,), x)
    assert {f.name for f in tmp_path.iterdir()} == {"embeddings.tsv", "metadata.tsv", "projector_config.pbtxt"}
    assert (tmp_path / "metadata.tsv").read_text().split("\n") == [str(i) for i in range(6)]


def test_a_grid_too_large_is_shrunk(monkeypatch):
    monkeypatch.setattr("keras_tfcl.callbacks.image_grid.LARGEST_SPRITE", 6)
    grid, size = sprite(np.full((4, 8, 8, 1), 200.0))
    assert grid.shape == (6, 6, 1) and size == (3, 3)
    assert (grid == 200).all()


def test_images_of_another_range(tmp_path):
    with pytest.raises(ValueError, match=r"values 0 to 255\. Received: values 0 to 1\."):
        EmbeddingProjector(tmp_path, IMAGES / 255)
    fit(EmbeddingProjector(tmp_path, IMAGES / 255, value_range=(0, 1)), x=IMAGES / 255)
    grid = tf.io.decode_png((tmp_path / "sprite.png").read_bytes()).numpy()
    np.testing.assert_array_equal(grid[5:10, 0:3], IMAGES[3])


def test_labels_of_another_length_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"`labels` must have one entry.*Received: 2 labels, 7 samples"):
        EmbeddingProjector(tmp_path, IMAGES, [0, 1])
