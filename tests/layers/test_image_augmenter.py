import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_tfcl.layers import ImageAugmenter, RandomResizedCrop
from keras_tfcl.layers.image_augmenter import COMPILING

SEED = tf.constant([3, 5], "int64")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (16, 12, 10, 3)).astype("uint8")


def all_sorts():
    return ImageAugmenter(
        [
            layers.RandomFlip("horizontal"),
            layers.RandomZoom(0.3, 0.3),
            layers.RandomColorJitter((0, 255), 0.2, 0.2, (0.4, 0.6), 0.1),
            layers.GaussianNoise(1.0),
            layers.Rescaling(1.0),
            layers.RandomErasing(),
        ]
    )


def test_without_training_only_the_dtype_changes(images):
    views = all_sorts()(images, training=False)
    assert views.dtype == "float32"
    np.testing.assert_array_equal(views, images.astype("float32"))


def test_training_draws_anew_at_every_call(images):
    augmenter = all_sorts()
    first, second = augmenter(images, training=True), augmenter(images, training=True)
    assert first.dtype == "float32"
    assert not np.array_equal(first, second)


def test_augment_depends_on_images_and_seed_alone(images):
    augmenter = all_sorts()
    first = augmenter.augment(images, SEED).numpy()
    augmenter(images, training=True)  # moves the layers' own generators
    np.testing.assert_array_equal(first, augmenter.augment(images, SEED))
    assert not np.array_equal(first, augmenter.augment(images, SEED + 1))
    np.testing.assert_array_equal(first, all_sorts().augment(images.astype("float32"), tf.cast(SEED, "int32")))


def test_augment_moves_no_generator(images):
    augmenter = all_sorts()
    augmenter.build(images.shape)
    before = [v.numpy() for v in augmenter.variables]
    augmenter.augment(images, SEED)
    assert len(before) == 9  # flip, zoom, jitter and its four parts, noise, erasing
    np.testing.assert_array_equal(before, [v.numpy() for v in augmenter.variables])


def test_augment_captures_no_variable(images):
    traced = tf.function(all_sorts().augment, autograph=False).get_concrete_function(
        tf.TensorSpec((None, 12, 10, 3), tf.uint8), tf.TensorSpec((2,), tf.int64)
    )
    assert [c for c in traced.captured_inputs if c.dtype == tf.resource] == []


def test_parallel_map_gives_the_same_views_as_a_loop(images):
    augmenter = all_sorts()
    seeds = tf.stack([[i, 17] for i in range(24)])
    batches = tf.data.Dataset.from_tensor_slices(seeds).map(
        lambda seed: augmenter.augment(images, seed), num_parallel_calls=8, deterministic=True
    )
    one_by_one = tf.data.Dataset.from_tensor_slices(seeds).map(lambda seed: augmenter.augment(images, seed))
    for a, b in zip(batches, one_by_one, strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_and_draws_within_a_layer_get_different_randomness():
    black = np.zeros((64, 8, 8, 1), "uint8")
    # Two equal layers: with a shared seed the second would undo or repeat the first.
    brighter = ImageAugmenter([layers.RandomBrightness((0.0, 0.4)), layers.RandomBrightness((0.0, 0.4))])
    alone = ImageAugmenter([layers.RandomBrightness((0.0, 0.4))])
    both, one = brighter.augment(black, SEED)[:, 0, 0, 0], alone.augment(black, SEED)[:, 0, 0, 0]
    assert abs(np.corrcoef(both, one)[0, 1]) < 0.9
    shifted = ImageAugmenter([layers.RandomTranslation(0.5, 0.5, fill_mode="constant")])
    ramp = np.broadcast_to(np.arange(64, dtype="uint8").reshape(1, 8, 8, 1), (64, 8, 8, 1))
    assert len(np.unique(shifted.augment(ramp, SEED).numpy().reshape(64, -1), axis=0)) == 64


def test_reads_shapes_through_layers_that_change_them(images):
    augmenter = ImageAugmenter([layers.Resizing(8, 6), layers.RandomCrop(4, 4)])
    assert augmenter.compute_output_shape((None, 12, 10, 3)) == (None, 4, 4, 3)
    assert augmenter.augment(images, SEED).shape == (16, 4, 4, 3)


def test_config_round_trip_keeps_views_and_dtype(images):
    augmenter = all_sorts()
    copy = keras.layers.deserialize(keras.layers.serialize(augmenter))
    assert copy.get_config() == augmenter.get_config()
    np.testing.assert_array_equal(copy.augment(images, SEED), augmenter.augment(images, SEED))


def test_survives_a_keras_file(images, tmp_path):
    inputs = keras.Input((12, 10, 3))
    augmenter = all_sorts()
    keras.Model(inputs, augmenter(inputs)).save(tmp_path / "augmenter.keras")
    again = keras.models.load_model(tmp_path / "augmenter.keras").layers[-1]
    np.testing.assert_array_equal(again.augment(images, SEED), augmenter.augment(images, SEED))


def test_stays_float32_under_a_mixed_policy(images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        augmenter = ImageAugmenter([layers.Rescaling(1.0)])
    finally:
        keras.config.set_dtype_policy("float32")
    assert augmenter(images, training=True).dtype == augmenter.augment(images, SEED).dtype == "float32"


@keras.saving.register_keras_serializable(package="keras_tfcl_tests")
class GlobalNoise(layers.Layer):
    """Draws from Keras' global generator, which nothing outside can seed for one call."""

    def call(self, images):
        return images + keras.random.normal(keras.ops.shape(images))

    def compute_output_shape(self, input_shape):
        return input_shape


def test_refuses_a_layer_with_a_generator_out_of_reach(images):
    with pytest.raises(ValueError, match=r"own seed generator. Received: layers=\['GlobalNoise'\]"):
        ImageAugmenter([GlobalNoise()]).augment(images, SEED)


@pytest.mark.parametrize("call", [lambda a, x: a.augment(x, SEED), lambda a, x: a(x, training=True)])
def test_refuses_a_layer_with_other_state(images, call):
    with pytest.raises(ValueError, match=r"only state is a random seed. Received: BatchNormalization"):
        call(ImageAugmenter([layers.BatchNormalization()]), images)


@pytest.mark.parametrize("bad", [[], None, ["flip"], layers.RandomFlip()])
def test_refuses_anything_but_layers(bad):
    with pytest.raises(ValueError, match=r"`layers` must be a non-empty list of Keras layers. Received: layers="):
        ImageAugmenter(bad)


def test_refuses_a_single_image(images):
    with pytest.raises(ValueError, match=r"shape \(B, H, W, C\). Received: shape=\(12, 10, 3\)"):
        all_sorts().augment(images[0], SEED)


@pytest.mark.parametrize("seed", [3, [1.0, 2.0], [1, 2, 3]])
def test_refuses_a_seed_that_is_no_pair_of_integers(images, seed):
    with pytest.raises(ValueError, match=r"`seed` must be an integer tensor of shape \(2,\)"):
        all_sorts().augment(images, seed)


def test_layers_said_to_compile_do():
    named = {
        layers.GaussianNoise: (0.1,),
        layers.RandomBrightness: (0.2,),
        layers.RandomContrast: (0.2,),
        layers.Rescaling: (0.5,),
        RandomResizedCrop: (8, 8),
    }
    augmenter = ImageAugmenter([kind(*named.get(kind, ())) for kind in COMPILING])
    assert augmenter.compiles and not all_sorts().compiles
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)), "float32")
    views = augmenter.program(images, SEED)  # raises where a layer does not compile
    np.testing.assert_array_equal(augmenter.program(images, SEED), views)
    assert not np.array_equal(augmenter.program(images, SEED + 1), views)
