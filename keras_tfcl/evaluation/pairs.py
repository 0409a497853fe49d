"""Computes means over the pairs of a batch, a chunk of rows of the similarity matrix at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_tfcl.ops.masks import as_labels
from keras_tfcl.ops.similarity import l2_normalize
from keras_tfcl.typing import TensorLike

STRIP = 2**20  # entries of the similarity matrix that are held at a time: 4 MiB in float32


class WeightedMean(NamedTuple):
    """A mean and the sum of the weights behind it, so that the means of several batches can be combined."""

    value: tf.Tensor  # scalar, 0 where nothing was selected
    weight: tf.Tensor  # scalar


class Batch(NamedTuple):
    """The N = B * V embeddings of a batch of B samples, view by view."""

    embeddings: tf.Tensor  # (N, D), L2-normalised
    labels: tf.Tensor  # (N,)
    sample: tf.Tensor  # (N,), the index of each embedding's sample
    weight: tf.Tensor  # (N,)


class Strip(NamedTuple):
    """Some anchors of a batch, to be compared with all of its N embeddings."""

    batch: Batch
    anchor: tf.Tensor  # (A,), the indices of the anchors in the batch

    @property
    def similarity(self) -> tf.Tensor:
        """Cosines `(A, N)`."""
        embeddings = self.batch.embeddings
        return tf.matmul(tf.gather(embeddings, self.anchor), embeddings, transpose_b=True)

    @property
    def squared_distance(self) -> tf.Tensor:
        """`|u - v|^2`, `(A, N)`."""
        squared_norm = tf.reduce_sum(tf.square(self.batch.embeddings), axis=1)  # 1, or 0 for a zero vector
        norms = tf.gather(squared_norm, self.anchor)[:, None] + squared_norm[None, :]
        return tf.maximum(norms - 2 * self.similarity, 0)  # rounding may leave -1e-7 for equal embeddings

    @property
    def same_embedding(self) -> tf.Tensor:
        """bool `(A, N)`: the anchor itself."""
        return self.anchor[:, None] == tf.range(tf.shape(self.batch.sample)[0])[None, :]

    @property
    def same_sample(self) -> tf.Tensor:
        """bool `(A, N)`: views of the anchor's sample, the anchor included."""
        return tf.gather(self.batch.sample, self.anchor)[:, None] == self.batch.sample[None, :]

    @property
    def same_label(self) -> tf.Tensor:
        """bool `(A, N)`: embeddings with the anchor's label, the anchor included."""
        return tf.gather(self.batch.labels, self.anchor)[:, None] == self.batch.labels[None, :]


def flatten_views(
    y_pred: TensorLike, sample_weight: TensorLike | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises the views of a batch and lays them out one after the other.

    Args:
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype.
        sample_weight: weights `(B,)` or `(B, 1)`. Defaults to 1.

    Returns:
        Embeddings `(N, D)`, the indices `(N,)` of their samples, and their weights `(N,)`, with N = B * V. Embeddings
        and weights are float64 for float64 embeddings, else float32.

    Raises:
        ValueError: for embeddings of another rank, or weights of another length.
    """
    y_pred = tf.convert_to_tensor(y_pred)
    if y_pred.shape.rank not in (2, 3):
        raise ValueError(
            "`y_pred` must be embeddings of shape (B, D) or (B, V, D). "
            f"Received: shape={tuple(y_pred.shape)}. Flatten or pool the features first."
        )
    views = _views(y_pred)
    embeddings = l2_normalize(tf.reshape(y_pred, (-1, y_pred.shape[-1])))
    weight = tf.ones(tf.shape(y_pred)[:1], embeddings.dtype)
    if sample_weight is not None:
        weight = tf.reshape(tf.cast(sample_weight, embeddings.dtype), (-1,))
        _check_length("sample_weight", weight, y_pred)
    return embeddings, tf.repeat(tf.range(tf.shape(y_pred)[0]), views), tf.repeat(weight, views)


def as_batch(y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None) -> Batch:
    """Checks and normalises the input of a metric.

    Args:
        y_true: integer labels `(B,)` or `(B, 1)`, compared as integers.
        y_pred: as in `flatten_views`.
        sample_weight: as in `flatten_views`.

    Raises:
        ValueError: for labels that are not integers, embeddings of another rank, or lengths that differ.

    Example:

    >>> as_batch([4, 5], [[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]]]).labels.numpy()
    array([4, 4, 5, 5])
    """
    labels, y_pred = as_labels(y_true), tf.convert_to_tensor(y_pred)
    embeddings, sample, weight = flatten_views(y_pred, sample_weight)
    _check_length("y_true", labels, y_pred)
    return Batch(embeddings, tf.repeat(labels, _views(y_pred)), sample, weight)


def mean_over_pairs(
    batch: Batch, value: Callable[[Strip], tf.Tensor], selected: Callable[[Strip], tf.Tensor]
) -> WeightedMean:
    """The mean of `value` over the `selected` pairs; a pair's weight is the product of its embeddings' weights.

    Args:
        batch: of `as_batch`.
        value: function from a strip to `(A, N)`.
        selected: function from a strip to bool `(A, N)`.

    Example:

    >>> batch = as_batch([4, 4, 5], [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    >>> mean = mean_over_pairs(batch, lambda strip: strip.similarity, lambda strip: ~strip.same_label)
    >>> float(mean.value), float(mean.weight)
    (0.5, 4.0)
    """

    def of_anchors(strip: Strip) -> tuple[tf.Tensor, tf.Tensor]:
        own, others = tf.gather(batch.weight, strip.anchor), batch.weight[None, :]
        weight = tf.where(selected(strip), others, tf.zeros_like(others))  # (A, N)
        return own * tf.reduce_sum(value(strip) * weight, axis=1), own * tf.reduce_sum(weight, axis=1)

    return mean_over_anchors(batch, of_anchors)


def mean_over_anchors(batch: Batch, of_anchors: Callable[[Strip], tuple[tf.Tensor, tf.Tensor]]) -> WeightedMean:
    """The weighted mean over all embeddings of a batch as anchors, in float64.

    Memory is `O(N D)` and a few strips of 4 MiB, whatever the batch, in eager mode, in a graph and under XLA. A batch
    of up to 1,024 embeddings is a single strip.

    Args:
        batch: of `as_batch`.
        of_anchors: function from a strip to the anchors' weighted values `(A,)` and weights `(A,)`.
    """
    count = batch.sample.shape[0]
    if count is not None and count**2 <= STRIP:
        values, weights = (tf.cast(part, "float64") for part in of_anchors(Strip(batch, tf.range(count))))
        total, weight = tf.reduce_sum(values), tf.reduce_sum(weights)
    else:
        total, weight = _sums_over_strips(batch, of_anchors)
    return WeightedMean(tf.math.divide_no_nan(total, weight), weight)


def _sums_over_strips(
    batch: Batch, of_anchors: Callable[[Strip], tuple[tf.Tensor, tf.Tensor]]
) -> tuple[tf.Tensor, tf.Tensor]:
    count = tf.shape(batch.sample)[0]
    size = tf.minimum(count, tf.maximum(1, STRIP // tf.maximum(count, 1)))
    offsets = tf.range(size)

    def add(i: tf.Tensor, total: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        anchor = tf.minimum(i * size, count - size) + offsets  # the last strip reaches back to keep its size
        new = anchor >= i * size
        parts = (tf.where(new, part, tf.zeros_like(part)) for part in of_anchors(Strip(batch, anchor)))
        values, weights = (tf.reduce_sum(tf.cast(part, "float64")) for part in parts)
        return i + 1, total + values, weight + weights

    start = tf.constant(0), tf.constant(0.0, "float64"), tf.constant(0.0, "float64")
    # One iteration at a time: by default a graph starts ten, and holds the strips of all of them.
    return tf.while_loop(lambda i, *_: i * size < count, add, start, parallel_iterations=1)[1:]


def _views(y_pred: tf.Tensor) -> tf.Tensor | int:
    return tf.shape(y_pred)[1] if y_pred.shape.rank == 3 else 1


def _check_length(name: str, values: tf.Tensor, y_pred: tf.Tensor) -> None:
    received, expected = values.shape[0], y_pred.shape[0]
    if None not in (received, expected) and received != expected:
        raise ValueError(
            f"`{name}` must have one entry for each row of `y_pred`. Received: {received} entries for {expected} rows. "
            "Views of one sample share a label: stack them as (B, V, D)."
        )
