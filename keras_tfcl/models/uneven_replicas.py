"""Batches that leave some replicas with few samples or none."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_tfcl.ops import replicas
from keras_tfcl.ops.candidates import Candidates
from keras_tfcl.typing import SameStructure, Tensor


def split(batch: SameStructure, strategy: tf.distribute.Strategy) -> SameStructure:
    """Splits a batch into one part for each replica, as `fit` does for a data set; the last parts may be empty.

    Args:
        batch: structure of tensors with B samples each, and of None.
        strategy: its replicas receive the parts.
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return batch

    def parts(tensor: Tensor) -> Tensor:
        size = -(-tensor.shape[0] // count)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tensor[size * context.replica_id_in_sync_group :][:size]
        )

    return keras.tree.map_structure(lambda tensor: None if tensor is None else parts(tensor), batch)


def at_least_one_sample(x: SameStructure) -> SameStructure:
    """Returns x or, on a replica without samples, one sample of zeros, because batch normalisation would give NaN."""
    if replicas.replica_count() == 1:
        return x
    missing = tf.maximum(1 - tf.shape(keras.tree.flatten(x)[0])[0], 0)
    return keras.tree.map_structure(lambda tensor: _padded_with_zeros(tensor, missing), x)


def at_least_one_anchor(
    labels: Tensor, z: Tensor, candidates: Candidates, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor, Candidates, Tensor | None]:
    """Returns the arguments or, on a replica without samples, labels, embeddings and weights of one anchor.

    It has no positive, so that no loss counts it, and it is not a candidate.
    """
    missing = tf.maximum(1 - tf.shape(z)[0], 0)
    if labels.dtype.is_floating:  # multi-hot
        labels = _padded_with_zeros(labels, missing)
    else:
        unused = labels.dtype.min if labels.dtype.min < 0 else labels.dtype.max
        labels = tf.concat([labels, tf.fill([missing], tf.constant(unused, labels.dtype))], axis=0)
    if candidates.self_index is not None:
        none = tf.fill([missing * z.shape[1]], tf.constant(-1, candidates.self_index.dtype))
        candidates = candidates._replace(self_index=tf.concat([candidates.self_index, none], axis=0))
    if sample_weight is not None and len(sample_weight.shape) > 0:
        sample_weight = _padded_with_zeros(tf.convert_to_tensor(sample_weight), missing)
    return labels, _padded_with_zeros(z, missing), candidates, sample_weight


def _padded_with_zeros(x: tf.Tensor, count: Tensor) -> tf.Tensor:
    zeros = tf.zeros(tf.concat([[count], tf.shape(x)[1:]], axis=0), x.dtype)
    return tf.ensure_shape(tf.concat([x, zeros], axis=0), [None, *x.shape[1:]])
