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
    colours, none = (image_augmenter("photos", (32, 32, channels)).layers[2] for channels in (3, 1))
    assert colours.hue > 0 and (none.saturation, none.hue) == (0, 0)
    assert "RandomGrayscale" not in names(image_augmenter("photos", (32, 32, 1)))


def test_a_view_of_a_photograph_is_a_window_of_it():
    """Of a horizontal ramp a window is a shorter ramp, mirrored or not."""
    ramp = np.broadcast_to(np.arange(0.0, 256.0, 4)[:, None], (200, 48, 64, 1)).astype("float32")
    views = image_augmenter("photos", (48, 64, 1), strength=1e-6).augment(ramp, SEED).numpy()[..., 0]
    steps = np.diff(views[:, :, 8:-8], axis=2)
    slope = steps.mean((1, 2))
    assert np.abs(steps - slope[:, None, None]).max() < 1.5  # straight
    widths = np.abs(slope) / 4  # share of the ramp's width
    assert 0.2 < widths.min() < 0.35 and 0.9 < widths.max() < 1.01
    assert 0.35 < (slope < 0).mean() < 0.65


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


RANGES = [(-1, 1), (0, 65535)]


@pytest.mark.parametrize("value_range", RANGES)
@pytest.mark.parametrize(("kind", "shape"), [("photos", (72, 70, 3)), ("grey", (28, 28, 1)), ("digits", (28, 28, 1))])
def test_other_ranges_give_the_same_views_on_their_scale(kind, shape, value_range):
    """Each operation: what brightness adds, what is clipped, and what fills an erased patch or a border."""
    low, high = value_range
    images = np.random.default_rng(0).integers(0, 256, (8, *shape))
    scaled = (images / 255 * (high - low) + low).astype("float32")
    expected = image_augmenter(kind, shape).augment(images, SEED).numpy().astype("float64")
    augmenter = image_augmenter(kind, shape, value_range=value_range)
    found = augmenter.augment(scaled, SEED).numpy()
    np.testing.assert_allclose((found - low) / (high - low), expected / 255, atol=2e-4)
    np.testing.assert_array_equal(augmenter(scaled), scaled)
    copy = keras.layers.deserialize(keras.layers.serialize(augmenter))
    np.testing.assert_array_equal(copy.augment(scaled, SEED), found)


PIXELS = np.random.default_rng(0).random((8, 6, 6, 3)).astype("float32")


@pytest.mark.parametrize(
    ("images", "value_range", "received"),
    [
        (PIXELS, (0, 255), r"0 to 255\. Received: values 0\.0\d+ to 0\.99"),
        (2 * PIXELS - 1, (0, 255), r"0 to 255\. Received: values -0\.9\d+ to 0\.99"),
        ((PIXELS - 0.485) / 0.229, (0, 255), r"0 to 255\. Received: values -2\.\d+ to 2\.\d+"),
        ((PIXELS > 0.5).astype("uint8"), (0, 255), r"0 to 255\. Received: values 0 to 1,"),
        (255 * PIXELS, (0, 1), r"0 to 1\. Received: values .* to 254\.\d+"),
        (255 * PIXELS, (-1, 1), r"-1 to 1\. Received"),
        (255 * PIXELS, (0, 65535), r"0 to 65535\. Received"),
    ],
)
def test_images_out_of_range_are_named_once(images, value_range, received):
    augmenter = image_augmenter("photos", (6, 6, 3), value_range=value_range)
    with pytest.warns(UserWarning, match=received + r".*Pass value_range=\(lowest, highest\)"):
        augmenter.augment(images, SEED)
    augmenter(images, training=True)  # in silence


@pytest.mark.parametrize(
    ("images", "value_range"),
    [
        (255 * PIXELS, (0, 255)),
        (np.zeros((2, 6, 6, 3), "uint8"), (0, 255)),
        (np.full((2, 6, 6, 3), 255.0), (0, 255)),
        (260 * PIXELS - 3, (0, 255)),  # resized with a sharp filter
        (PIXELS, (0, 1)),
        (-np.ones((2, 6, 6, 3)), (-1, 1)),
        (np.full((2, 6, 6, 3), np.nan), (0, 255)),  # StopOnNonFinite names it
    ],
)
def test_images_in_range_earn_no_warning(images, value_range):
    assert image_augmenter("photos", (6, 6, 3), value_range=value_range).check_range(images) is None


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), 255, (0, np.inf), (0, 1, 2), "ab", None])
def test_bad_ranges_are_named(value_range):
    with pytest.raises(ValueError, match=r"`value_range` must be the lowest and the highest.*Received: value_range="):
        image_augmenter("grey", (6, 6, 1), value_range=value_range)
