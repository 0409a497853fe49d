"""Inputs by name: other names are refused with the names to use."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_tfcl.export import InputError, OnnxEncoder, export_onnx


def test_other_names_are_refused_with_the_remedy(tmp_path):
    a, b = keras.Input((2,), name="query"), keras.Input((2,), name="page")
    path = tmp_path / "encoder.onnx"
    export_onnx(keras.Model([a, b], keras.layers.Dense(3)(keras.layers.Concatenate()([a, b]))), path)
    x = np.array([[1.0, -2.0], [0.5, 3.0]], "float32")
    with pytest.raises(InputError, match=r"Received: \['left', 'right'\]\. Rename them: \{'query': \.\.\., 'page'"):
        OnnxEncoder(path).encode({"left": x, "right": x})
    assert OnnxEncoder(path).encode({"query": x, "page": x}).shape == (2, 3)
