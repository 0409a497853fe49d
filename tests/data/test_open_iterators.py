"""A program that ends by an error while a data set is being read."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

PROGRAM = """
import sys, time
import keras, keras_tfcl

images = keras_tfcl.data.image_views(sys.argv[1], 2, 8)
images.reader.start_pass = lambda count: time.sleep(0.3)  # a thread is in it, for the next epoch, at the end
encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)])
model = keras_tfcl.ContrastiveModel(encoder)
model.compile("sgd", keras_tfcl.InfoNCE())

def fail(epoch, logs):
    raise ValueError("the program ends")

model.fit(images, epochs=9, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=fail)])
"""


def test_an_error_during_fit_ends_the_program(tmp_path):
    for number in range(4):
        Image.fromarray(np.full((8, 8, 3), number, "uint8")).save(tmp_path / f"{number}.png")
    try:
        ended = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        pytest.fail("The program waits for ever.")
    assert ended.returncode == 1 and "the program ends" in ended.stderr
