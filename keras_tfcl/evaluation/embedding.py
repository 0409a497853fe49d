"""Computes embeddings of samples and of their random views, as the loss of any model receives them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.data.draws import draw
from keras_tfcl.typing import Augmenter, SameStructure, Structure


def embed(model: keras.Model, x: Structure, batch_size: int = 32) -> np.ndarray:
    """Computes the embeddings of samples without augmentation, with the projector of a `ContrastiveModel`.

    Args:
        model: a `ContrastiveModel`, or any model whose output is the embedding.
        x: N samples, an array or a structure of arrays.
        batch_size: number of samples that are embedded at a time. Defaults to 32: outside of a graph, Keras keeps the
            output of every layer until the last one, which for 256 images and a ResNet-18 takes gigabytes.

    Returns:
        float32 `(N, D)`, not normalised.

    Example:

    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> embed(encoder, np.zeros((5, 4))).shape
    (5, 3)
    """
    return np.concatenate([_embed(model, (batch,)) for _, batch in _batches(x, batch_size)])[:, 0]


def embed_views(
    model: keras.Model,
    x: Structure,
    augmenter: Augmenter | None = None,
    views: int = 2,
    seed: int = 0,
    batch_size: int = 32,
    training: bool = False,
) -> np.ndarray:
    """Computes the embeddings of random views of samples, as the loss receives them.

    Args:
        model: a `ContrastiveModel`, or any model whose output is the embedding.
        x: N samples, an array or a structure of arrays; or a tuple of V of them: ready-made views.
        augmenter: function from a batch to a batch of one view each, such as `keras_tfcl.layers.image_augmenter(...)`.
            Defaults to the model's own.
        views: number of views. Defaults to 2.
        seed: integer that fixes the views of a built Keras layer, or of an object with a method `augment(x, seed)`.
            Defaults to 0.
        batch_size: number of samples that are embedded at a time. Defaults to 32: outside of a graph, Keras keeps the
            output of every layer until the last one, which for 256 images and a ResNet-18 takes gigabytes.
        training: whether layers compute as in training: batch normalisation uses the statistics of the batch, and
            dropout drops. No state of the model changes. Defaults to False.

    Returns:
        float32 `(N, V, D)`, not normalised.

    Raises:
        ValueError: without an augmenter and without ready-made views.

    Example:

    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> first, second = np.zeros((5, 4)), np.ones((5, 4))
    >>> embed_views(encoder, (first, second)).shape
    (5, 2, 3)
    """
    check_views_can_be_made(model, x, augmenter)
    if isinstance(x, tuple):
        return np.concatenate([_embed(model, batch, training) for _, batch in _batches(x, batch_size)])
    augmenter = augmenter or model.augmenter
    return np.concatenate(
        [
            _embed(model, make_views(augmenter, batch, views, (seed, start * views)), training)
            for start, batch in _batches(x, batch_size)
        ]
    )


def check_views_can_be_made(model: keras.Model, x: Structure, augmenter: Augmenter | None = None) -> None:
    """Raises ValueError for samples that are not ready-made views where there is no augmenter."""
    if not isinstance(x, tuple) and augmenter is None and getattr(model, "augmenter", None) is None:
        raise ValueError(
            "Two different views of each sample are needed. Received: samples without views, and no augmenter. "
            "Pass `augmenter=`, for example keras_tfcl.layers.image_augmenter('photos', image_shape), or ready-made "
            "views as a tuple: (view_1, view_2)."
        )


def make_views(
    augmenter: Augmenter, batch: Structure, views: int = 2, seed: tuple[int, int] = (0, 0)
) -> tuple[Structure, ...]:
    """Makes random views of a batch.

    Args:
        augmenter: as for `embed_views`.
        batch: samples.
        views: V, the number of views. Defaults to 2.
        seed: two integers that fix the views, as in `embed_views`; each view adds one to the second. Defaults to
            (0, 0).

    Returns:
        A tuple of V batches.

    Example:

    >>> first, second = make_views(keras.layers.GaussianNoise(0.1), np.zeros((5, 4)))
    >>> first.shape
    TensorShape([5, 4])
    """
    return tuple(draw(augmenter, batch, (seed[0], seed[1] + view)) for view in range(views))


def _batches(x: SameStructure, batch_size: int) -> Iterator[tuple[int, SameStructure]]:
    for start in range(0, len(keras.tree.flatten(x)[0]), batch_size):
        yield start, keras.tree.map_structure(lambda part, at=start: part[at : at + batch_size], x)


def _embed(model: keras.Model, views: tuple[Structure, ...], training: bool = False) -> np.ndarray:
    """`(B, V, D)`."""
    views = keras.tree.map_structure(tf.convert_to_tensor, views)
    with keras.StatelessScope() if training else contextlib.nullcontext():  # what layers would update is dropped
        if hasattr(model, "encoders"):  # a ContrastiveModel projects a tuple of views
            embeddings = model(views, training=training)
        else:
            embeddings = tf.stack([model(view, training=training) for view in views], axis=1)
    return tf.cast(embeddings, "float32").numpy()
