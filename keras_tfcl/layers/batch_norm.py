"""Batch normalisation in runs that are too short for its moving averages."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.typing import Structure
from keras_tfcl.validation import positive_integer


def set_batch_norm_momentum(model: keras.Layer, momentum: float) -> int:
    """Sets the momentum of every `BatchNormalization` in a model, nested models and layers included.

    The models of `keras.applications` have momentum 0.99 or 0.999. Their moving averages need about 500 to 5,000 steps,
    and until then `predict` differs from training. With 0.9 they need about 50 steps. Call this before
    `compile`.

    Args:
        model: any Keras model or layer.
        momentum: number in [0, 1).

    Returns:
        The number of layers that were changed.

    Raises:
        ValueError: if momentum is out of range.

    Example:

    >>> net = keras.applications.MobileNetV2((32, 32, 3), weights=None, include_top=False, pooling="avg")
    >>> keras_tfcl.layers.set_batch_norm_momentum(net, 0.9)
    52
    """
    if not 0 <= momentum < 1:
        raise ValueError(
            f"`momentum` must be a number in [0, 1). Received: momentum={momentum!r}. 0.9 suits short runs."
        )
    layers = _batch_norms(model)
    for layer in layers:
        layer.momentum = momentum
    return len(layers)


def recalibrate_batch_norm(model: keras.Model, x: Structure | tf.data.Dataset, batch_size: int = 32) -> int:
    """Recomputes the moving statistics of every `BatchNormalization`, frozen or not, as plain averages over batches.

    After a short run, or one whose last steps changed the weights a lot, moving averages lag behind the weights.
    This replaces them by the mean of the statistics of the batches with the final weights (precise batch norm).

    Args:
        model: a trained Keras model.
        x: the training data, for example one view of a few thousand images: arrays, or a `tf.data.Dataset`
            of batches, of which only the inputs are used.
        batch_size: number of samples at a time, for arrays; preferably as in training. Defaults to 32.

    Returns:
        The number of layers that were changed.

    Raises:
        ValueError: if x holds no whole batch, or never ends.

    Example:

    >>> net = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    >>> x = np.random.default_rng(0).normal(5.0, 1.0, (64, 3)).astype("float32")
    >>> keras_tfcl.layers.recalibrate_batch_norm(net, x)
    1
    >>> bool(np.allclose(net.layers[0].moving_mean, x.mean(0), atol=1e-5))
    True

    Reference: Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3.
    """
    layers = _batch_norms(model)
    settings = [(layer.momentum, layer.trainable) for layer in layers]
    count = 0
    try:
        for inputs in _batches(x, batch_size):
            for layer in layers:
                layer.trainable = True  # a frozen one would not look at the batch
                layer.momentum = count / (count + 1)  # the moving average is then the mean of all batches so far
            model(inputs, training=True)
            count += 1
    finally:
        for layer, (momentum, trainable) in zip(layers, settings, strict=True):
            layer.momentum, layer.trainable = momentum, trainable
    if not count:
        raise ValueError(f"`x` must hold at least one batch of {batch_size}. Received: none. Pass more samples.")
    return len(layers)


def _batches(x: Structure | tf.data.Dataset, batch_size: int) -> Iterator[Structure]:
    if isinstance(x, tf.data.Dataset):
        if x.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("`x` must be finite. Received: an infinite data set. Use take(n), or remove repeat().")
        for element in x:
            yield keras.utils.unpack_x_y_sample_weight(element)[0]
        return
    size = positive_integer("batch_size", batch_size, "That of training is best.")
    count = len(keras.tree.flatten(x)[0])
    for start in range(0, count - size + 1, size):
        yield keras.tree.map_structure(lambda array, start=start: np.asarray(array[start : start + size]), x)


def _batch_norms(layer: keras.Layer) -> list[keras.layers.BatchNormalization]:
    """Every batch normalisation below a layer, each once."""
    found: dict[int, keras.Layer] = {}

    def walk(part: object) -> None:
        if not isinstance(part, keras.Layer) or id(part) in found:
            return
        found[id(part)] = part
        for child in keras.tree.flatten([*getattr(part, "layers", []), *vars(part).values()]):
            walk(child)

    walk(layer)
    return [part for part in found.values() if isinstance(part, keras.layers.BatchNormalization)]
