"""The operations of SimCLR's augmentation beside references of their own: colorsys, and loops in NumPy."""

import colorsys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfcl.layers import color
from keras_tfcl.layers.image_augmenter import COMPILING
from keras_tfcl.layers.photo_recipe import photo_layers
from keras_tfcl.layers.random_color_jitter import RandomColorJitter
from keras_tfcl.layers.random_gaussian_blur import RandomGaussianBlur, gaussian_blur
from keras_tfcl.layers.random_resized_crop import RandomResizedCrop, crop_and_resize

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 7, 5, 3)).astype("float32")
LUMA = np.array([0.2989, 0.587, 0.114])


def blend(images, other, factor):
    return np.clip(factor[:, None, None, None] * images + (1 - factor[:, None, None, None]) * other, 0, 255)


@pytest.mark.parametrize("factor", [[0.0, 1.0, 1.7], [0.4, 2.0, 0.9]])
def test_brightness_contrast_and_saturation(factor):
    factor = np.array(factor, "float32")
    grey = (IMAGES @ LUMA)[..., None]
    mean = grey.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(color.adjust_brightness(IMAGES, factor), blend(IMAGES, 0, factor), atol=1e-3)
    np.testing.assert_allclose(color.adjust_contrast(IMAGES, factor), blend(IMAGES, mean, factor), atol=1e-3)
    np.testing.assert_allclose(color.adjust_saturation(IMAGES, factor), blend(IMAGES, grey, factor), atol=1e-3)


@pytest.mark.parametrize("shift", [[0.0, 0.1, -0.1], [0.5, -0.37, 0.25]])
def test_hue_is_that_of_hsv(shift):
    images = IMAGES.copy()
    images[0, 0, 0], images[1, 0, 0] = 0, 130  # black and grey have no hue
    found = color.adjust_hue(images, np.array(shift, "float32")).numpy()
    for b, y, x in np.ndindex(images.shape[:3]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images[b, y, x] / 255.0))
        expected = np.array(colorsys.hsv_to_rgb((hue + shift[b]) % 1.0, saturation, value)) * 255
        np.testing.assert_allclose(found[b, y, x], expected, atol=2e-3)


@pytest.mark.parametrize(("size", "shape"), [(5, (2, 9, 12, 3)), (1, (1, 4, 4, 1)), (7, (3, 8, 5, 2))])
def test_blur_is_a_convolution_with_a_gaussian(size, shape):
    images, sigma = RNG.random(shape).astype("float32") * 255, np.linspace(0.3, 2, shape[0]).astype("float32")
    radius = size // 2
    padded = np.pad(images, [(0, 0), (radius, radius), (radius, radius), (0, 0)], mode="reflect")
    expected = np.zeros(shape)
    for b in range(shape[0]):
        taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2.0 * sigma[b] ** 2))
        kernel = np.outer(taps, taps) / taps.sum() ** 2
        for y, x in np.ndindex(shape[1:3]):
            expected[b, y, x] = np.einsum("ij,ijc->c", kernel, padded[b, y : y + size, x : x + size])
    np.testing.assert_allclose(gaussian_blur(images, sigma, size), expected, atol=1e-3)


@pytest.mark.parametrize("size", [(6, 7), (20, 4), (12, 9)])
def test_the_whole_window_is_a_plain_resize(size):
    images = RNG.random((2, 12, 9, 3)).astype("float32")
    expected = tf.image.resize(images, size, antialias=True)
    np.testing.assert_allclose(RandomResizedCrop(*size)(images, training=False), expected, atol=1e-5)


def test_a_window_is_what_pillow_makes_of_it():
    pillow = pytest.importorskip("PIL.Image")
    images = RNG.integers(0, 256, (2, 40, 30, 3)).astype("uint8")
    boxes = [(4, 8, 22, 30), (0, 0, 10, 36)]  # left, top, right, bottom
    windows = np.array(
        [[top / 40, left / 30, bottom / 40, right / 30] for left, top, right, bottom in boxes], "float32"
    )
    found = crop_and_resize(images.astype("float32"), windows, (12, 9)).numpy()
    for image, box, crop in zip(images, boxes, found, strict=True):
        expected = np.asarray(pillow.fromarray(image).resize((9, 12), pillow.Resampling.BILINEAR, box), "float32")
        np.testing.assert_allclose(crop[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1.01)  # Pillow rounds, twice


def test_windows_lie_inside_and_have_the_asked_area_and_proportions():
    crop = RandomResizedCrop(8, 8, scale=(0.2, 0.6), ratio=(0.5, 2.0), seed=3)
    top, left, bottom, right = crop._windows(4000, 60, 90).numpy().T
    area = (bottom - top) * (right - left)
    proportions = (right - left) * 90 / ((bottom - top) * 60)
    assert min(top.min(), left.min()) >= -1e-6 and max(bottom.max(), right.max()) <= 1 + 1e-6
    assert 0.2 - 1e-5 <= area.min() < 0.22 and 0.58 < area.max() <= 0.6 + 1e-5
    assert 0.5 - 1e-5 <= proportions.min() < 0.55 and 1.9 < proportions.max() <= 2 + 1e-4
    assert abs((top / (1 - (bottom - top))).mean() - 0.5) < 0.03  # positions are uniform


def test_windows_are_the_same_whatever_keras_draws_by_default():
    images = np.arange(2 * 16 * 16 * 3, dtype="float32").reshape(2, 16, 16, 3)
    expected = RandomResizedCrop(8, 8, seed=0, dtype="float32")(images)
    keras.config.set_floatx("float64")
    try:
        np.testing.assert_array_equal(RandomResizedCrop(8, 8, seed=0, dtype="float32")(images), expected)
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize("shape", [(16, 16, 3), (None, None, 16, 3)])
def test_images_of_an_unknown_size_are_refused(shape):
    crop = tf.function(RandomResizedCrop(8, 8), input_signature=[tf.TensorSpec(shape)])
    with pytest.raises(ValueError, match=r"`images` must be \(B, H, W, C\) of a known height and width"):
        crop.get_concrete_function()


def test_a_window_that_never_fits_is_centred():
    crop = RandomResizedCrop(8, 8, scale=(0.9, 1.0), ratio=(0.5, 1.0), seed=0)
    windows = crop._windows(50, 20, 200).numpy()  # 10 times wider than high: no window of 90 % is that narrow
    np.testing.assert_allclose(windows, np.tile([0, 0.45, 1, 0.55], (50, 1)), atol=1e-6)


def test_jitter_draws_its_share_within_its_limits():
    """On grey images contrast, saturation and hue change nothing: what is left is the brightness."""
    jitter = RandomColorJitter(0.4, 0.0, 0.3, 0.2, probability=0.75, seed=1)
    factors = jitter(np.full((4000, 2, 2, 3), 100.0, "float32")).numpy()[:, 0, 0, 0] / 100
    changed = factors != 1
    assert abs(changed.mean() - 0.75) < 0.03
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4


def test_jitter_of_grey_images_blends_with_their_mean():
    images = RNG.integers(100, 151, (50, 6, 5, 1)).astype("float32")  # nothing is clipped
    found = RandomColorJitter(0.0, 0.5, 0.0, 0.0, probability=1.0, seed=0)(images).numpy()
    mean = images.mean((1, 2, 3), keepdims=True)
    factor = ((found - mean) * (images - mean)).sum((1, 2, 3)) / ((images - mean) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(found, blend(images, mean, factor), atol=1e-2)
    assert 0.5 <= factor.min() < 0.6 and 1.4 < factor.max() <= 1.5
    np.testing.assert_array_equal(RandomColorJitter(0.0, 0.0, 0.0, 0.0)(images), images)


def test_every_order_of_the_jitter_is_drawn():
    """Brightness 2 after contrast 0 is not contrast 0 after brightness 2, as clipping shows."""
    image = np.concatenate([np.zeros((1, 1, 4, 3)), np.full((1, 1, 4, 3), 200)], axis=1).astype("float32")
    jitter = RandomColorJitter(1.0, 1.0, 0.0, 0.0, probability=1.0, seed=2)
    found = {tuple(np.round(jitter(image).numpy()[0, :, 0, 0], 1)) for _ in range(40)}
    assert len(found) > 20


def test_blur_leaves_its_share_alone():
    blur = RandomGaussianBlur(0.3, kernel_size=3, sigma=(1.0, 1.0), seed=0)
    images = RNG.random((2000, 4, 4, 1)).astype("float32")
    changed = np.abs(blur(images).numpy() - images).max((1, 2, 3)) > 1e-4
    assert abs(changed.mean() - 0.3) < 0.04


@pytest.mark.parametrize("layer", photo_layers((72, 72, 3)) + photo_layers((32, 32, 1)), ids=lambda layer: layer.name)
def test_layers_come_back_from_their_configuration(layer):
    images = RNG.integers(0, 256, (2, 72, 72, 3)).astype("float32")
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config()
    assert type(copy) in COMPILING  # test_image_augmenter.py compiles all of these with XLA
    found = copy(images, training=True)
    assert found.shape[0] == 2 and 0 <= float(tf.reduce_min(found)) and float(tf.reduce_max(found)) <= 255.01


def names(layers):
    return [type(layer).__name__ for layer in layers]


def test_the_recipe_is_the_published_one():
    large, small, grey = photo_layers((224, 224, 3)), photo_layers((32, 32, 3)), photo_layers((96, 96, 1))
    simclr = ["RandomResizedCrop", "RandomFlip", "RandomColorJitter", "RandomGrayscale", "RandomGaussianBlur"]
    assert names(large) == simclr
    assert names(small) == simclr[:-1]
    assert names(grey) == ["RandomResizedCrop", "RandomFlip", "RandomColorJitter", "RandomGaussianBlur"]
    assert (large[2].brightness, large[2].hue, large[2].probability) == (0.8, 0.2, 0.8)
    assert (small[2].saturation, small[2].hue) == (0.4, 0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomColorJitter(hue=0.6), r"`hue` must be a number from 0 to 0.5\. Received: hue=0.6"),
        (lambda: RandomColorJitter(contrast=-1), r"`contrast` must be .* Received: contrast=-1"),
        (lambda: RandomColorJitter(value_range=(-1, 1)), r"`value_range` must be \(0, high\)\. Received"),
        (lambda: RandomColorJitter()(np.ones((1, 4, 4, 1), "float32")), r"must have 3 channels .* Received: shape="),
        (lambda: RandomGaussianBlur(kernel_size=4), r"`kernel_size` must be odd .* Received: kernel_size=4"),
        (lambda: RandomGaussianBlur(sigma=(2, 1)), r"`sigma` must be .* Received: sigma=\(2, 1\)"),
        (lambda: RandomGaussianBlur(kernel_size=21)(np.ones((1, 8, 8, 1), "float32")), r"less than twice"),
        (lambda: RandomResizedCrop(8, 0), r"`width` must be an integer of at least 1\. Received: width=0"),
        (lambda: RandomResizedCrop(8, 8, scale=(0, 1)), r"`scale` must be .* Received: scale=\(0, 1\)"),
        (lambda: RandomResizedCrop(8, 8, ratio=(2, 1)), r"`ratio` must be .* Received: ratio=\(2, 1\)"),
    ],
)
def test_arguments_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
