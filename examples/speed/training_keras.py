"""One measurement: `python training_keras.py {fit,augmented,loop} {on,off} BATCH WIDTH STEPS` prints a line of JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from baselines import device_name

import keras_tfcl

TEMPERATURE = 0.1
SHAPE = (32, 32, 3)


def main(mode: str, xla: str, batch: int, width: int, steps: int) -> None:
    keras.utils.set_random_seed(0)
    encoder, projector = resnet18(width), keras_tfcl.ProjectionHead((8 * width, 128))
    optimizer = keras.optimizers.SGD(0.06, momentum=0.9)
    loss = keras_tfcl.InfoNCE(TEMPERATURE)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *SHAPE), "uint8")
    views = tuple(tf.constant(rng.uniform(0, 255, (batch, *SHAPE)).astype("float32")) for _ in range(2))
    run = hand_written if mode == "loop" else fitted
    source = images if mode == "augmented" else views
    times = run(encoder, projector, optimizer, loss, source, steps, xla == "on")
    weights = [*encoder.trainable_variables, *projector.trainable_variables]
    parameters = int(sum(np.prod(v.shape) for v in weights))
    print(json.dumps({"first": times[0], "times": times[1:], "parameters": parameters, "device": device_name()}))


def hand_written(
    encoder: keras.Model, projector: keras.Layer, optimizer: Any, loss: Any, views: Any, steps: int, xla: bool
) -> list[float]:
    """What one would write without ContrastiveModel."""
    projector.build(encoder.output_shape)
    weights = [*encoder.trainable_variables, *projector.trainable_variables]
    optimizer.build(weights)

    @tf.function(jit_compile=xla)
    def step(first: Any, second: Any) -> Any:
        with tf.GradientTape() as tape:
            z = projector(encoder(tf.concat([first, second], 0), training=True), training=True)
            z = tf.transpose(tf.reshape(z, (2, -1, z.shape[-1])), (1, 0, 2))
            value = loss(tf.range(tf.shape(first)[0]), z)
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
        return value

    times = []
    for first, second in tf.data.Dataset.from_tensors(views).repeat(steps + 1).prefetch(tf.data.AUTOTUNE):
        start = time.perf_counter()
        step(first, second).numpy()
        times.append(time.perf_counter() - start)
    return times


def fitted(
    encoder: keras.Model, projector: keras.Layer, optimizer: Any, loss: Any, source: Any, steps: int, xla: bool
) -> list[float]:
    """ContrastiveModel.fit, on ready-made views or on images of which it makes the views."""
    augmenter = None if isinstance(source, tuple) else keras_tfcl.layers.image_augmenter("photos", SHAPE)
    model = keras_tfcl.ContrastiveModel(encoder, projector=projector, augmenter=augmenter, seed=0)
    model.compile(optimizer, loss=loss, jit_compile=xla)
    # A view tuple in tf.data is ((view_1, view_2),): the outer tuple is (x,).
    element = (source,) if isinstance(source, tuple) else source
    clock = Clock()
    model.fit(tf.data.Dataset.from_tensors(element).repeat(steps + 1), callbacks=[clock], verbose=0)
    return clock.times


class Clock(keras.callbacks.Callback):
    """Seconds from the end of one step to the end of the next: data, callbacks and bookkeeping are in it."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.times: list[float] = []
        self.last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])  # waits for a GPU, as the loop does
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now


def resnet18(width: int) -> keras.Model:
    """He et al. 2016, with the stem for 32 x 32 images (3 x 3, no pooling), as SimCLR's CIFAR-10 runs."""
    x = inputs = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 255)(x)
    x = convolution(x, width, 1)
    for stage in range(4):
        for block in range(2):
            x = residual(x, width * 2**stage, 2 if stage and not block else 1)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def residual(x: Any, filters: int, strides: int) -> Any:
    y = convolution(convolution(x, filters, strides), filters, 1, activation=None)
    if x.shape[-1] != filters or strides > 1:
        x = convolution(x, filters, strides, size=1, activation=None)
    return keras.layers.ReLU()(keras.layers.Add()([x, y]))


def convolution(x: Any, filters: int, strides: int, size: int = 3, activation: str | None = "relu") -> Any:
    x = keras.layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    return keras.layers.ReLU()(x) if activation else x


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(size) for size in sys.argv[3:]))
