"""docs/training.md: its code runs, with less data and fewer epochs than it names."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
SMALLER = {r"batch_size=\d+": "batch_size=32", r"epochs=\d+": "epochs=1", r"queue_size=\d[\d_]*": "queue_size=64"}


def dense(width):
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(width)])


@pytest.fixture
def scope():
    """What the page's code takes for granted."""
    policy = keras.config.dtype_policy()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 8, 8, 1)).astype("uint8")
    numbers = images.reshape(64, 64).astype("float32") / 255
    yield {
        "keras": keras,
        "keras_tfcl": keras_tfcl,
        "ProjectionHead": keras_tfcl.ProjectionHead,
        "tf": tf,
        "encoder": dense(8),
        "image_encoder": dense(8),
        "text_encoder": keras.Sequential([keras.Input((64,)), keras.layers.Dense(6)]),
        "augmenter": keras_tfcl.layers.image_augmenter("digits", (8, 8, 1)),
        "head": keras_tfcl.ProjectionHead((16, 8)),
        "projector": keras_tfcl.ProjectionHead((16, 8)),
        "images": images,
        "tokens": numbers,
        "a": images,
        "b": numbers,
        "queries": images,
        "documents": numbers,
        "relevant": np.arange(64),
        "epochs": 10,
        "batch_size": 32,
        "labelled_batches": tf.data.Dataset.from_tensor_slices((images / 255, np.arange(64) % 8)).batch(32),
    }
    keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_runs(scope, number):
    code = BLOCKS[number]
    if "model" not in code.split("=")[0] and "model." in code:  # it goes on with the first model of the page
        code = BLOCKS[0].split("model.fit")[0] + code
    for pattern, value in SMALLER.items():
        code = re.sub(pattern, value, code)
    code = code.replace("ContrastiveModel(...)", "ContrastiveModel(keras.models.clone_model(encoder), None, augmenter)")
    code = code.replace("model.compile(...)", "model.compile(loss='infonce')").replace(
        "model.fit(x,", "model.fit(images,"
    )
    exec(compile(code, "docs/training.md", "exec"), scope)
