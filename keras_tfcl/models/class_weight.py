"""Turns Keras' `class_weight` into sample weights."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_tfcl.models.targets import targets_of
from keras_tfcl.ops.masks import as_labels
from keras_tfcl.typing import TensorLike


def weights_of_classes(y: TensorLike, class_weight: dict[int, float]) -> tf.Tensor:
    """The weight of each sample's class, float32 `(B,)`; 1 for classes that have none.

    Args:
        y: integer labels `(B,)` or `(B, 1)`.
        class_weight: a weight for each class label.

    Example:

    >>> weights_of_classes([0, 1, 2], {0: 0.5, 2: 3.0}).numpy()
    array([0.5, 1. , 3. ], dtype=float32)
    """
    labels = as_labels(targets_of(y).labels)
    is_class = tf.expand_dims(labels, 1) == tf.constant(list(class_weight), labels.dtype)  # (B, classes)
    weights = tf.reduce_sum(tf.where(is_class, tf.constant(list(class_weight.values()), "float32"), 0.0), axis=1)
    return tf.where(tf.reduce_any(is_class, axis=1), weights, 1.0)


def weighted(dataset: tf.data.Dataset, class_weight: dict[int, float]) -> tf.data.Dataset:
    """Turns a data set of `(x, y)` into one of `(x, y, sample_weight)`."""
    return dataset.map(lambda x, y: keras.utils.pack_x_y_sample_weight(x, y, weights_of_classes(y, class_weight)))
