from __future__ import annotations

import keras
import tensorflow as tf

from keras_tfcl.typing import Structure, Tensor


def synthetic_batch(network: keras.Model, samples: int = 2, free: int = 32) -> Structure:
    """A batch that fits a functional model's inputs, of the structure that it takes.

    Args:
        network: a functional or sequential model.
        samples: number of samples, where the model does not fix it.
        free: size of axes that the model leaves free.

    Returns:
        Tensors: floats from a normal distribution, integers 0 and 1, booleans, words.
    """
    inputs = network.inputs[0] if isinstance(network, keras.Sequential) else network.input
    return keras.tree.map_structure(lambda x: _samples(x, samples, free), inputs)


def _samples(x: keras.KerasTensor, samples: int, free: int) -> Tensor:
    first, *rest = x.shape
    shape = [first or samples, *(size or free for size in rest)]
    dtype = tf.as_dtype(x.dtype)
    generator = tf.random.Generator.from_seed(0)
    if dtype.is_floating:
        values = tf.cast(generator.normal(shape), dtype)
    else:
        bits = generator.uniform(shape, 0, 2, "int32")
        values = tf.where(bits > 0, "a word", "two words") if dtype == tf.string else tf.cast(bits, dtype)
    return tf.sparse.from_dense(values) if x.sparse else values
