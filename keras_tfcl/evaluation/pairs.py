"""Computes means over the pairs of a batch, a chunk of rows of the similarity matrix at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_tfcl.ops.masks import Pairs, as_labels
from keras_tfcl.ops.pair_rule import PairRule
from keras_tfcl.ops.sides import Side, pairs_of
from keras_tfcl.ops.similarity import l2_normalize
from keras_tfcl.typing import TensorLike

STRIP = 2**20  # entries of the similarity matrix that are held at a time: 4 MiB in float32


class WeightedMean(NamedTuple):
    """A mean and the sum of the weights behind it, so that the means of several batches can be combined."""

    value: tf.Tensor  # scalar, 0 where nothing was selected
    weight: tf.Tensor  # scalar


class Batch(NamedTuple):
    """A anchors and their C candidates, of a batch of B samples, both sample by sample."""

    anchors: tf.Tensor  # (A, D), L2-normalised
    candidates: tf.Tensor  # (C, D)
    rows: Side  # what decides about pairs, of the anchors
    columns: Side  # and of the candidates
    sample: tf.Tensor  # (A,), the index of each anchor's sample
    candidate_sample: tf.Tensor  # (C,)
    weight: tf.Tensor  # (A,)
    candidate_weight: tf.Tensor  # (C,)


class Strip(NamedTuple):
    """Some anchors of a batch, to be compared with all of its C candidates."""

    batch: Batch
    anchor: tf.Tensor  # (R,), the indices of the anchors in the batch

    @property
    def similarity(self) -> tf.Tensor:
        """Cosines `(R, C)`."""
        return tf.matmul(tf.gather(self.batch.anchors, self.anchor), self.batch.candidates, transpose_b=True)

    @property
    def squared_distance(self) -> tf.Tensor:
        """`|u - v|^2`, `(R, C)`."""
        # The squared norms are 1, or 0 for a zero vector.
        norms = [tf.reduce_sum(tf.square(x), axis=1) for x in (self.batch.anchors, self.batch.candidates)]
        total = tf.gather(norms[0], self.anchor)[:, None] + norms[1][None, :]
        return tf.maximum(total - 2 * self.similarity, 0)  # rounding may leave -1e-7 for equal embeddings

    @property
    def same_sample(self) -> tf.Tensor:
        """bool `(R, C)`: views of the anchor's sample, the anchor included."""
        return tf.gather(self.batch.sample, self.anchor)[:, None] == self.batch.candidate_sample[None, :]

    @property
    def pairs(self) -> Pairs:
        """The positives and negatives of the anchors, bool `(R, C)` each."""
        compared, same = pairs_of(self.batch.rows.each(lambda x: tf.gather(x, self.anchor)), self.batch.columns)
        return Pairs(compared & same, compared & ~same)


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
        weight = tf.cast(sample_weight, embeddings.dtype)
        if weight.shape.rank == 2 and weight.shape[1] != 1:
            raise ValueError(
                f"`sample_weight` of a metric must have shape (B,) or (B, 1). Received: shape={tuple(weight.shape)}. "
                "Only losses take a weight for each view: leave out weighted_metrics, or weigh samples."
            )
        weight = tf.reshape(weight, (-1,))
        _check_length("sample_weight", weight, y_pred)
    return embeddings, tf.repeat(tf.range(tf.shape(y_pred)[0]), views), tf.repeat(weight, views)


def as_batches(
    y_true: TensorLike | None,
    y_pred: TensorLike,
    sample_weight: TensorLike | None = None,
    rule: PairRule | None = None,
) -> list[Batch]:
    """Checks and normalises the input of a metric.

    Args:
        y_true: integer labels `(B,)` or `(B, 1)`, compared as integers; or multi-hot `(B, L)`. None: one for each row.
        y_pred: as in `flatten_views`.
        sample_weight: as in `flatten_views`.
        rule: who is compared with whom. Defaults to all with all.

    Returns:
        One batch, or for a symmetric rule one for each direction.

    Raises:
        ValueError: for labels that are not integers, embeddings of another rank, or lengths that differ.

    Example:

    >>> (batch,) = as_batches([4, 5], [[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]]])
    >>> batch.rows.labels.numpy()
    array([4, 4, 5, 5])
    """
    y_pred, rule = tf.convert_to_tensor(y_pred), rule or PairRule()
    rows = tf.range(tf.shape(y_pred, out_type="int64")[0])
    labels = rows if y_true is None else as_labels(y_true, multi_hot=True)
    embeddings, _, weight = flatten_views(y_pred, sample_weight)
    _check_length("y_true", labels, y_pred)
    weight = weight[:: _views(y_pred)]
    rule.check(labels, y_pred, None)
    batches = []
    for comparison in rule.comparisons(labels, tf.reshape(embeddings, tf.shape(y_pred)), None):
        anchors, others = comparison.anchors, comparison.candidates
        candidates = anchors if others is None else others.embeddings
        samples = tf.range(tf.shape(y_pred)[0])
        own = [tf.repeat(x, comparison.anchors_per_sample) for x in (samples, weight)]
        times = tf.shape(candidates)[0] // tf.maximum(tf.shape(samples)[0], 1)
        of_others = [tf.repeat(x, times) for x in (samples, weight)]
        batches.append(Batch(anchors, candidates, *comparison.sides(), own[0], of_others[0], own[1], of_others[1]))
    return batches


def mean_over_pairs(
    batches: list[Batch], value: Callable[[Strip], tf.Tensor], selected: Callable[[Strip], tf.Tensor]
) -> WeightedMean:
    """The mean of `value` over the `selected` pairs; a pair's weight is the product of its embeddings' weights.

    Args:
        batches: of `as_batches`.
        value: function from a strip to `(R, C)`.
        selected: function from a strip to bool `(R, C)`.

    Example:

    >>> batches = as_batches([4, 4, 5], [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    >>> mean = mean_over_pairs(batches, lambda strip: strip.similarity, lambda strip: strip.pairs.negative)
    >>> float(mean.value), float(mean.weight)
    (0.5, 4.0)
    """

    def of_anchors(strip: Strip) -> tuple[tf.Tensor, tf.Tensor]:
        own, others = tf.gather(strip.batch.weight, strip.anchor), strip.batch.candidate_weight[None, :]
        weight = tf.where(selected(strip), others, tf.zeros_like(others))  # (R, C)
        return own * tf.reduce_sum(value(strip) * weight, axis=1), own * tf.reduce_sum(weight, axis=1)

    return mean_over_anchors(batches, of_anchors)


def mean_over_anchors(batches: list[Batch], of_anchors: Callable[[Strip], tuple[tf.Tensor, tf.Tensor]]) -> WeightedMean:
    """The weighted mean over the anchors of batches, in float64.

    Memory is `O(N D)` and a few strips of 4 MiB, whatever the batch, in eager mode, in a graph and under XLA. A batch
    of up to 1,024 embeddings is a single strip.

    Args:
        batches: of `as_batches`.
        of_anchors: function from a strip to the anchors' weighted values `(R,)` and weights `(R,)`.
    """
    total, weight = (tf.add_n(parts) for parts in zip(*(_sums(batch, of_anchors) for batch in batches), strict=True))
    return WeightedMean(tf.math.divide_no_nan(total, weight), weight)


def _sums(batch: Batch, of_anchors: Callable[[Strip], tuple[tf.Tensor, tf.Tensor]]) -> tuple[tf.Tensor, tf.Tensor]:
    """The sums of values and weights over all anchors."""
    known = batch.anchors.shape[0], batch.candidates.shape[0]
    if None not in known and known[0] * known[1] <= STRIP:
        values, weights = (tf.cast(part, "float64") for part in of_anchors(Strip(batch, tf.range(known[0]))))
        return tf.reduce_sum(values), tf.reduce_sum(weights)
    count, others = tf.shape(batch.anchors)[0], tf.shape(batch.candidates)[0]
    size = tf.minimum(count, tf.maximum(1, STRIP // tf.maximum(others, 1)))
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
