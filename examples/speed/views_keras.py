"""One measurement of `keras_tfcl.data.image_views`: `python views_keras.py FOLDER` prints a line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import keras_tfcl
from keras_tfcl.data.decoding import Window, decode_crops, random_window
from keras_tfcl.layers import ImageAugmenter
from keras_tfcl.layers.photo_recipe import photo_layers

SIDE, BATCH, REPEATS = 224, 32, 100


def main(folder: str) -> None:
    views = keras_tfcl.data.image_views(folder, batch_size=BATCH, image_size=SIDE)
    started = time.perf_counter()
    iterator = iter(views)
    next(iterator)
    first = time.perf_counter() - started
    for _ in iterator:
        pass
    started, count = time.perf_counter(), 0
    for _ in views:
        count += 2 * BATCH
    rate = count / (time.perf_counter() - started)
    print(json.dumps({"views_per_second": rate, "first_batch_seconds": first, "operations": operations(folder)}))


def operations(folder: str) -> dict[str, float]:
    """Processor time of the parts, in ms a view."""
    encoded = [path.read_bytes() for path in sorted(Path(folder).glob("*.jp*g"))[:50]]
    rng = np.random.default_rng(0)

    def two_crops(i: int) -> list[np.ndarray]:
        def windows(height: int, width: int) -> list[Window]:
            return [random_window(rng, height, width, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(2)]

        return decode_crops(encoded[i % len(encoded)], windows, [(SIDE, SIDE)] * 2)

    image = tf.constant(two_crops(0)[:1])
    times = {"decode the image, crop and resize it": milliseconds(two_crops) / 2}
    for layer in photo_layers((SIDE, SIDE, 3), min_area=None):
        augmenter = ImageAugmenter([layer])
        augmenter.build((1, SIDE, SIDE, 3))
        step = tf.function(augmenter.augment, jit_compile=True)
        times[type(layer).__name__] = milliseconds(lambda i, step=step: step(image, tf.constant([0, i])))
    return times


def milliseconds(call: Callable[[int], object]) -> float:
    call(0)
    started = time.process_time()
    for i in range(REPEATS):
        call(i)
    return 1e3 * (time.process_time() - started) / REPEATS


if __name__ == "__main__":
    main(sys.argv[1])
