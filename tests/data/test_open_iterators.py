"""A program that ends by an error while a data set is being read."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

# In both, threads are in Python at the end.
FIT = """
import time
import keras, numpy as np, tensorflow as tf, keras_tfcl

def slow(x):
    return tf.ensure_shape(tf.numpy_function(lambda x: time.sleep(0.3) or x, [x], tf.float32), x.shape)

def fail(epoch, logs):
    raise ValueError("the program ends")

encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
model = keras_tfcl.ContrastiveModel(encoder, augmenter=slow)
model.compile("sgd", keras_tfcl.InfoNCE())
x = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
model.fit(x, epochs=9, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=fail)])
"""
PREDICT = """
import sys, time
import keras, keras_tfcl

def fail(batch, logs):
    raise ValueError("the program ends")

images = keras_tfcl.data.image_batches(sys.argv[1], 1, 8)
images.reader.count_one = lambda: time.sleep(0.3)
encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
encoder.predict(images, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_predict_batch_end=fail)])
"""


@pytest.mark.parametrize("program", [FIT, pytest.param(PREDICT, marks=pytest.mark.slow)], ids=["fit", "predict"])
def test_an_error_ends_the_program(program, tmp_path):
    for number in range(9):
        Image.fromarray(np.full((8, 8, 3), number, "uint8")).save(tmp_path / f"{number}.png")
    try:
        ended = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        pytest.fail("The program waits for ever.")
    assert ended.returncode == 1 and "the program ends" in ended.stderr
