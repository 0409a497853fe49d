"""Embeddings as the loss sees them, of any model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.models.contrastive_model import ContrastiveModel


def embed_instances(model: keras.Model, instances: Any, batch_size: int = 256) -> np.ndarray:
    """Embeds unaltered instances as the loss would see them: with the projector of a `ContrastiveModel`.

    Args:
        model: a `ContrastiveModel`, or any model whose output is the embedding.
        instances: an array or a structure of arrays, one row an instance.
        batch_size: rows at a time. Defaults to 256.

    Returns:
        float32 `(N, D)`, not normalised.

    Example:

    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> embed_instances(encoder, np.zeros((5, 4))).shape
    (5, 3)
    """
    batches = (_embed(model, (batch,)) for _, batch in _batches(instances, batch_size))
    return np.concatenate(list(batches))[:, 0]


def embed_views(
    model: keras.Model,
    instances: Any,
    augmenter: Callable[..., Any] | None = None,
    views: int = 2,
    seed: int = 0,
    batch_size: int = 256,
) -> np.ndarray:
    """Embeds random views of instances as the loss would see them.

    Args:
        model: a `ContrastiveModel`, or any model whose output is the embedding.
        instances: an array or a structure of arrays, one row an instance; or a tuple of V of them: ready-made views.
        augmenter: function from a batch to a batch of one view each, such as `keras_tfcl.layers.image_augmenter(...)`.
            Defaults to the model's own.
        views: number of views. Defaults to 2.
        seed: integer that fixes the views, if `augmenter` has a method `augment(x, seed)`. Defaults to 0.
        batch_size: rows at a time. Defaults to 256.

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
    check_views_can_be_made(model, instances, augmenter)
    augmenter = augmenter or getattr(model, "augmenter", None)

    def made(start: int, batch: Any) -> tuple:
        if isinstance(batch, tuple):
            return batch
        return make_views(augmenter, batch, views, (seed, start * views))

    return np.concatenate([_embed(model, made(*batch)) for batch in _batches(instances, batch_size)])


def check_views_can_be_made(model: keras.Model, instances: Any, augmenter: Any = None) -> None:
    """Raises ValueError for instances that are no views while there is no augmenter."""
    if not isinstance(instances, tuple) and augmenter is None and getattr(model, "augmenter", None) is None:
        raise ValueError(
            "Two different views of each instance are needed. Received: instances without views, and no augmenter. "
            "Pass `augmenter=`, for example keras_tfcl.layers.image_augmenter('photos', image_shape), or ready-made "
            "views as a tuple: (view_1, view_2)."
        )


def make_views(augmenter: Callable[..., Any], batch: Any, views: int = 2, seed: tuple[int, int] = (0, 0)) -> tuple:
    """Random views of a batch.

    Args:
        augmenter: as for `embed_views`.
        batch: instances.
        views: V, the number of views. Defaults to 2.
        seed: two integers that fix the views, if `augmenter` has a method `augment(x, seed)`; the second one counts on
            by V. Defaults to (0, 0).

    Returns:
        A tuple of V batches.

    Example:

    >>> first, second = make_views(keras.layers.GaussianNoise(0.1), np.zeros((5, 4)))
    >>> first.shape
    TensorShape([5, 4])
    """
    return tuple(_view(augmenter, batch, (seed[0], seed[1] + view)) for view in range(views))


def _batches(instances: Any, batch_size: int) -> Any:
    rows = len(keras.tree.flatten(instances)[0])
    for start in range(0, rows, batch_size):
        yield start, keras.tree.map_structure(lambda x, at=start: x[at : at + batch_size], instances)


def _view(augmenter: Any, batch: Any, seed: tuple[int, int]) -> Any:
    if hasattr(augmenter, "augment"):
        return augmenter.augment(batch, tf.constant(seed, "int32"))
    return augmenter(batch, training=True) if isinstance(augmenter, keras.Layer) else augmenter(batch)


def _embed(model: keras.Model, views: tuple) -> np.ndarray:
    """`(B, V, D)`."""
    views = keras.tree.map_structure(tf.convert_to_tensor, views)
    if isinstance(model, ContrastiveModel):
        embeddings = model(views, training=False)
    else:
        embeddings = tf.stack([model(view, training=False) for view in views], axis=1)
    return tf.cast(embeddings, "float32").numpy()
