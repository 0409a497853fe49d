"""All pairs of embeddings within a batch, as the metrics of this package see them."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from keras_tfcl.ops.masks import as_labels
from keras_tfcl.ops.similarity import l2_normalize


class BatchPairs(NamedTuple):
    """Tensors over all ordered pairs of the N = B * V embeddings of a batch (each unordered pair counts twice)."""

    similarity: Any  # (N, N), cosines
    squared_distance: Any  # (N, N), |u - v|^2
    same_embedding: Any  # (N, N) bool, the diagonal
    same_instance: Any  # (N, N) bool, embeddings of one row
    same_label: Any  # (N, N) bool, the diagonal included
    weight: Any  # (N,), each embedding's weight

    def pair_weights(self, selected: Any) -> Any:
        """The product of both weights where `selected` `(N, N)`, 0 elsewhere; flat `(N * N,)`."""
        weight = ops.expand_dims(self.weight, 1) * ops.expand_dims(self.weight, 0)
        return ops.ravel(ops.where(selected, weight, ops.zeros_like(weight)))


def batch_pairs(y_true: Any, y_pred: Any, sample_weight: Any = None) -> BatchPairs:
    """Normalises the embeddings of a batch and compares all with all.

    Args:
        y_true: integer labels `(B,)` or `(B, 1)`, compared as integers.
        y_pred: embeddings `(B, D)` or `(B, V, D)`, any float dtype.
        sample_weight: one weight a row, `(B,)` or `(B, 1)`. Defaults to 1.

    Returns:
        `BatchPairs`, float32 (float64 for float64 embeddings).

    Raises:
        ValueError: for labels that are no integers, embeddings of another rank, lengths that differ.

    Example:

    >>> pairs = batch_pairs([4, 4], [[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]]])
    >>> pairs.similarity.numpy()[0]
    array([1., 0., 1., 0.], dtype=float32)
    """
    labels, embeddings = as_labels(y_true), _embeddings(y_pred)
    _check_length("y_true", labels, embeddings)
    views = ops.shape(embeddings)[1] if len(embeddings.shape) == 3 else 1
    embeddings = l2_normalize(ops.reshape(embeddings, (-1, embeddings.shape[-1])))  # (N, D)
    rows = ops.repeat(ops.arange(ops.shape(labels)[0]), views)  # (N,)
    labels = ops.repeat(labels, views)  # (N,)
    similarity = ops.matmul(embeddings, ops.transpose(embeddings))
    squared_norm = ops.sum(ops.square(embeddings), axis=-1)  # 1, or 0 for a zero row
    distance = ops.expand_dims(squared_norm, 1) + ops.expand_dims(squared_norm, 0) - 2 * similarity
    position = ops.arange(ops.shape(rows)[0])
    return BatchPairs(
        similarity=similarity,
        squared_distance=ops.maximum(distance, 0),  # rounding may leave -1e-7 for equal embeddings
        same_embedding=_equal(position),
        same_instance=_equal(rows),
        same_label=_equal(labels),
        weight=_weights(sample_weight, rows, embeddings, views),
    )


def batch_rows(y_pred: Any, sample_weight: Any = None) -> tuple[Any, Any]:
    """Every view of a batch `(B, D)` or `(B, V, D)` as a normalised row `(N, D)`, and its weight `(N,)`."""
    embeddings = _embeddings(y_pred)
    views = ops.shape(embeddings)[1] if len(embeddings.shape) == 3 else 1
    instances = ops.repeat(ops.arange(ops.shape(embeddings)[0]), views)  # (N,)
    rows = l2_normalize(ops.reshape(embeddings, (-1, embeddings.shape[-1])))
    return rows, _weights(sample_weight, instances, rows, views)


def _embeddings(y_pred: Any) -> Any:
    embeddings = ops.convert_to_tensor(y_pred)
    if len(embeddings.shape) not in (2, 3):
        raise ValueError(
            "`y_pred` must be embeddings of shape (B, D) or (B, V, D). "
            f"Received: shape={tuple(embeddings.shape)}. Flatten or pool the features first."
        )
    return embeddings


def _equal(values: Any) -> Any:
    return ops.expand_dims(values, 1) == ops.expand_dims(values, 0)


def _weights(sample_weight: Any, rows: Any, embeddings: Any, views: Any) -> Any:
    if sample_weight is None:
        return ops.ones_like(embeddings[:, 0])
    weight = ops.ravel(ops.cast(ops.convert_to_tensor(sample_weight), embeddings.dtype))  # (B,)
    weight = ops.repeat(weight, views)
    _check_length("sample_weight", weight, rows)
    return weight


def _check_length(name: str, values: Any, embeddings: Any) -> None:
    received, expected = values.shape[0], embeddings.shape[0]
    if None not in (received, expected) and received != expected:
        raise ValueError(
            f"`{name}` must have one entry for each row of `y_pred`. Received: {received} entries for {expected} rows. "
            "Views of one instance share an label: stack them as (B, V, D)."
        )
