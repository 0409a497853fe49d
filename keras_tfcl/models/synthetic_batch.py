from __future__ import annotations

import keras
import tensorflow as tf

from keras_tfcl.typing import Structure, Tensor

SAMPLES, FREE_SIZE = 2, 32  # where the model does not fix the batch, or another axis


def synthetic_batch(network: keras.Model) -> Structure:
    """A batch that fits the inputs of a functional or sequential model, of the structure that it takes.

    Its tensors hold floats from a normal distribution, integers 0 and 1, booleans, or words.
    """
    inputs = network.inputs[0] if isinstance(network, keras.Sequential) else network.input
    return keras.tree.map_structure(_samples, inputs)


def _samples(x: keras.KerasTensor) -> Tensor:
    first, *rest = x.shape
    shape = [first or SAMPLES, *(size or FREE_SIZE for size in rest)]
    dtype = tf.as_dtype(x.dtype)
    generator = tf.random.Generator.from_seed(0)
    if dtype.is_floating:
        values = tf.cast(generator.normal(shape), dtype)
    else:
        bits = generator.uniform(shape, 0, 2, "int32")
        values = tf.where(bits > 0, "a word", "two words") if dtype == tf.string else tf.cast(bits, dtype)
    return tf.sparse.from_dense(values) if x.sparse else values
