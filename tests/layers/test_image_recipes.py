import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfcl.layers import ImageAugmenter, image_augmenter

CASES = [("photos", (32, 32, 3)), ("photos", (72, 66, 3)), ("photos", (32, 32, 1)), ("grey", (28, 28, 1)),
         ("digits", (28, 28, 1)), ("digits", (28, 28, 3))]  # fmt: skip
SEED = tf.constant([0, 1])


def names(augmenter):
    return [type(layer).__name__ for layer in augmenter.layers]


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_views_keep_shape_and_range_and_differ(kind, shape, strength):
    # Pure colours at the ends of the range are where a careless colour layer leaves it.
    images = (np.random.default_rng(0).integers(0, 2, (8, *shape)) * 255).astype("uint8")
    views = image_augmenter(kind, shape, strength).augment(images, SEED)
    assert views.shape == (8, *shape) and views.dtype == "float32"
    assert float(tf.reduce_min(views)) >= 0 and float(tf.reduce_max(views)) <= 255.001
    assert not np.allclose(views, images)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_config_round_trip(kind, shape):
    augmenter = image_augmenter(kind, shape, 0.7)
    copy = keras.layers.deserialize(keras.layers.serialize(augmenter))
    images = np.random.default_rng(1).integers(0, 256, (4, *shape)).astype("uint8")
    assert isinstance(copy, ImageAugmenter)
    np.testing.assert_array_equal(copy.augment(images, SEED), augmenter.augment(images, SEED))


def test_digits_are_never_flipped():
    corner = np.zeros((256, 28, 28, 1), "uint8")
    corner[:, 4:10, 4:10] = 255  # top left
    views = image_augmenter("digits", (28, 28, 1)).augment(corner, SEED).numpy()[..., 0]
    rows, columns = np.mgrid[:28, :28]
    mass = views.sum((1, 2))
    seen = mass > 0  # an erased patch may hide the square
    assert seen.sum() > 200
    assert np.all((views * rows).sum((1, 2))[seen] / mass[seen] < 14)
    assert np.all((views * columns).sum((1, 2))[seen] / mass[seen] < 14)


@pytest.mark.parametrize("kind", ["photos", "grey"])
def test_half_of_the_others_are_flipped(kind):
    left = np.zeros((512, 32, 32, 3 if kind == "photos" else 1), "uint8")
    left[:, :, :12] = 200
    views = image_augmenter(kind, left.shape[1:], 0.2).augment(left, SEED).numpy().mean(-1)
    flipped = views[:, :, 16:].sum((1, 2)) > views[:, :, :16].sum((1, 2))
    assert 0.4 < flipped.mean() < 0.6


def test_border_of_digits_stays_black():
    white = np.full((64, 28, 28, 1), 255, "uint8")
    views = image_augmenter("digits", (28, 28, 1)).augment(white, SEED).numpy()
    assert np.mean(views.min((1, 2, 3)) == 0) > 0.9


def test_blur_and_colour_only_where_they_make_sense():
    assert "RandomGaussianBlur" not in names(image_augmenter("photos", (64, 64, 3)))
    assert "RandomGaussianBlur" in names(image_augmenter("photos", (65, 96, 3)))
    assert "RandomHue" not in names(image_augmenter("photos", (32, 32, 1)))


def test_strength_scales_the_change():
    ramp = np.broadcast_to(np.linspace(0, 255, 28).reshape(1, 28, 1, 1), (64, 28, 28, 1)).astype("float32")
    weak, strong = (
        float(np.abs(image_augmenter("digits", (28, 28, 1), s).augment(ramp, SEED) - ramp).mean()) for s in (0.1, 1.0)
    )
    assert strong > 1.5 * weak


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("letters", (28, 28, 1)), r"`kind` must be one of \['digits', 'grey', 'photos'\]. Received: kind='letters'"),
        (("digits", (28, 28)), r"`image_shape` must be \(H, W, C\).*Received: image_shape=\(28, 28\)"),
        (("digits", (None, 28, 1)), r"`image_shape` must be .*None"),
        (("digits", (28, 28, 1), 0), r"`strength` must be a positive finite number. Received: strength=0"),
        (("digits", (28, 28, 1), 3.0), r"`strength` must be at most 2. Received: strength=3.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_augmenter(*arguments)
