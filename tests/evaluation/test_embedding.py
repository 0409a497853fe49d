import keras
import numpy as np
import pytest

import keras_tfcl
from keras_tfcl.evaluation import embed, embed_views

X = np.random.default_rng(0).normal(size=(7, 6)).astype("float32")


@pytest.fixture(scope="module")
def model():
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])
    return keras_tfcl.ContrastiveModel(encoder, projector=keras_tfcl.ProjectionHead((4, 3)))


def test_samples_pass_the_projector(model):
    expected = model.projector(model.encoder(X), training=False)
    np.testing.assert_allclose(embed(model, X, batch_size=3), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(embed(model.encoder, X), model.encoder(X), rtol=1e-5, atol=1e-6)


def test_ready_made_views_keep_their_order(model):
    views = embed_views(model, (X, -X), batch_size=3)
    assert views.shape == (7, 2, 3)
    for index, view in enumerate((X, -X)):
        np.testing.assert_allclose(views[:, index], embed(model, view), rtol=1e-5, atol=1e-6)


def test_views_follow_the_seed(model):
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 1), "uint8")
    encoder = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    augmenter = keras_tfcl.layers.image_augmenter("digits", (8, 8, 1))
    first, again, other = (embed_views(encoder, images, augmenter, seed=seed, batch_size=2) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and not np.allclose(first[:, 0], first[:, 1])


def test_views_of_a_keras_layer_follow_the_seed(model):
    noise = keras.layers.GaussianNoise(0.5)
    noise.build(X.shape)
    first, again, other = (embed_views(model, X, noise, seed=seed, batch_size=3) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and not np.allclose(first[:, 0], first[:, 1])


def test_what_is_missing_is_named(model):
    with pytest.raises(ValueError, match=r"Received: samples without views, and no augmenter. Pass `augmenter=`"):
        embed_views(model, X)
