"""Images and sequences of any size: odd, small, large, below a crop's size, of one step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from helpers.onnx_files import run
from keras_tfcl.export import ParityError, export_onnx
from keras_tfcl.export.keras_to_onnx import convert as converter

layers, ops = keras.layers, keras.ops
SIZES = [(1, 1), (2, 61), (23, 19), (24, 20), (25, 21), (31, 8), (47, 200), (130, 33), (97, 160), (211, 3)]


def image_encoder(layer):
    """Sees every pixel: the embedding is the resized image."""
    image = keras.Input((None, None, 3))
    return keras.Model(image, layers.Flatten()(layer(image)))


SIZED = {
    "CenterCrop": lambda: layers.CenterCrop(24, 20),
    "nearest": lambda: layers.Resizing(24, 20, interpolation="nearest"),
    "bilinear": lambda: layers.Resizing(24, 20),
    "crop_to_aspect_ratio": lambda: layers.Resizing(24, 20, crop_to_aspect_ratio=True),
    "pad_to_aspect_ratio": lambda: layers.Resizing(24, 20, pad_to_aspect_ratio=True, fill_value=7.0),
    "nearest, pad_to_aspect_ratio": lambda: layers.Resizing(24, 20, interpolation="nearest", pad_to_aspect_ratio=True),
    "tf.image.resize_with_pad": lambda: layers.Lambda(
        lambda x: tf.image.resize_with_pad(x, 24, 20), output_shape=(24, 20, 3)
    ),
    "tf.image.resize_with_crop_or_pad": lambda: layers.Lambda(
        lambda x: tf.image.resize_with_crop_or_pad(x, 24, 20), output_shape=(24, 20, 3)
    ),
}


@pytest.mark.parametrize("build", SIZED.values(), ids=SIZED)
def test_images_of_any_size(build, tmp_path):
    model = image_encoder(build())
    export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    generator, compared = np.random.default_rng(0), 0
    for height, width in SIZES:
        x = generator.uniform(0, 255, (2, height, width, 3)).astype("float32")
        try:
            expected = np.asarray(model(x, training=False))
        except (tf.errors.InvalidArgumentError, ValueError):  # resize_with_pad to less than one pixel
            continue
        np.testing.assert_allclose(
            run(tmp_path / "encoder.onnx", x), expected, atol=1e-2, err_msg=f"{height} x {width}"
        )
        compared += 1
    assert compared >= len(SIZES) - 2


def test_nearest_takes_the_pixels_of_the_formula(tmp_path):
    """Pixel i of n comes from floor((i + 0.5) · scale), in float32 as TensorFlow computes it."""
    export_onnx(image_encoder(SIZED["nearest"]()), tmp_path / "encoder.onnx", normalize=False)
    for height, width in SIZES:
        rows, columns = (
            np.minimum(((np.arange(new, dtype="float32") + 0.5) * np.float32(old / new)).astype(int), old - 1)
            for old, new in ((height, 24), (width, 20))
        )
        x = np.arange(height * width * 3, dtype="float32").reshape(1, height, width, 3)
        expected = x[:, rows][:, :, columns].reshape(1, -1)
        np.testing.assert_array_equal(run(tmp_path / "encoder.onnx", x), expected, err_msg=f"{height} x {width}")


def test_edge_sizes_find_an_index_that_is_off(monkeypatch, tmp_path):
    handlers = converter.custom_op_handlers()
    handlers.pop("ResizeNearestNeighbor")
    monkeypatch.setattr(converter, "custom_op_handlers", lambda: handlers)
    model = image_encoder(layers.Resizing(48, 48, interpolation="nearest", name="culprit"))
    with pytest.raises(ParityError, match=r"an input of shape \(1, \d+, \d+, 3\).*Look at Resize"):
        export_onnx(model, tmp_path / "encoder.onnx")


def inner_layers():
    frame = keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
    nested = layers.TimeDistributed(layers.TimeDistributed(layers.Dense(3, activation="relu")))
    return {
        "dense": (layers.Dense(4), (5,)),
        "images": (frame, (6, 6, 3)),
        "recurrent": (layers.SimpleRNN(3), (2, 2)),
        "nested": (keras.Sequential([nested, layers.Flatten()]), (2, 3, 4)),
    }


@pytest.mark.parametrize("name", inner_layers())
def test_time_distributed_over_a_free_length(name, tmp_path):
    inner, shape = inner_layers()[name]
    x = keras.Input((None, *shape))
    model = keras.Model(x, layers.GlobalMaxPooling1D()(layers.TimeDistributed(inner)(x)))
    export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    for length in (1, 2, 11):
        x = np.random.default_rng(length).normal(size=(3, length, *shape)).astype("float32")
        np.testing.assert_allclose(run(tmp_path / "encoder.onnx", x), model(x), atol=1e-5)
    assert "call" not in vars(model.layers[1])  # the trace has left nothing behind


def test_masks_of_any_length(tmp_path):
    ids = keras.Input((None,), dtype="int32")
    hidden = layers.Embedding(20, 6, mask_zero=True)(ids)
    hidden = layers.MultiHeadAttention(2, 3)(hidden, hidden)
    model = keras.Model(ids, layers.Dense(4)(layers.GRU(5)(hidden)))
    export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    for length in (1, 2, 9, 30):
        x = np.random.default_rng(length).integers(0, 20, (3, length)).astype("int32")
        x[0] = 0  # an empty mask
        np.testing.assert_allclose(run(tmp_path / "encoder.onnx", x), model(x), atol=1e-5)
