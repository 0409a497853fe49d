"""Layers of Keras that need a fixed size, and infinite weights: the error names the cause, and its remedy works."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_tfcl.export import NonFiniteError, UnsupportedOpError, export_onnx


def images(layer, size):
    conv = layers.Conv2D(2, 3, padding="same")
    return keras.Sequential([keras.Input((size, size, 3)), layer, conv, layers.GlobalAveragePooling2D()])


@pytest.mark.parametrize(
    "make", [lambda: layers.RandomCrop(12, 9), lambda: layers.UpSampling2D(2, interpolation="bilinear")]
)
def test_a_fixed_size_is_the_remedy(make, tmp_path):
    path = tmp_path / "encoder.onnx"
    with pytest.raises(UnsupportedOpError, match=r"layer `.*Give keras\.Input a fixed size") as raised:
        export_onnx(images(make(), None), path)
    assert "keras.ops" not in str(raised.value) and not path.exists()
    assert export_onnx(images(make(), 20), path).max_abs_diff < 1e-3


def test_infinite_weights_are_named(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2, name="overflowed")])
    kernel = model.layers[1].get_weights()[0]
    model.layers[1].kernel.assign(np.where(np.arange(8).reshape(4, 2) == 3, np.inf, kernel))
    with pytest.raises(NonFiniteError, match="infinity in `overflowed`"):
        export_onnx(model, tmp_path / "encoder.onnx")


def test_infinity_on_purpose_is_exported(tmp_path):
    class Masked(layers.Layer):
        def build(self, shape):
            self.mask = self.add_weight(shape=(4,), initializer="zeros", trainable=False)
            self.mask.assign([0.0, -np.inf, 0.0, 0.0])

        def call(self, x):
            return keras.ops.softmax(x + self.mask)

    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), Masked()])
    assert export_onnx(model, tmp_path / "encoder.onnx").path
