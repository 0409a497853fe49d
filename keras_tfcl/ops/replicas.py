"""The replicas of `tf.distribute`, as seen from one of them. Outside a replica, or with one alone, all is local."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def replica_count() -> int:
    """How many replicas take part in the present step."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def gather(*tensors: Any) -> tuple[Any, ...]:
    """The rows of all replicas, replica by replica, of each tensor `(B, ...)`; replicas may have unequal B.

    Differentiable: a row's gradient is the sum of its gradients on all replicas. Exact, therefore, where the whole is
    the sum of what the replicas compute, as in Keras' training step.
    """
    if replica_count() == 1:
        return tensors
    context = tf.distribute.get_replica_context()
    return tuple(_with_row_shape(context.all_gather(tensor, axis=0), tensor) for tensor in tensors)


def first_row(rows: Any) -> Any:
    """Where this replica's `rows` start among the gathered ones, int32."""
    if replica_count() == 1:
        return tf.constant(0)
    context = tf.distribute.get_replica_context()
    counts = context.all_gather(tf.reshape(tf.cast(rows, "int32"), [1]), axis=0)
    return tf.reduce_sum(counts[: context.replica_id_in_sync_group])


def total(value: Any) -> Any:
    """The sum of a value over replicas, without gradient."""
    value = tf.stop_gradient(value)
    if replica_count() == 1:
        return value
    return tf.stop_gradient(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value))


def with_value_of_all(share: Any) -> Any:
    """This replica's share of a sum, with the value of the mean share: each replica reports the same.

    The gradient stays that of the share.
    """
    if replica_count() == 1:
        return share
    return share + tf.stop_gradient(total(share) / replica_count() - share)


def _with_row_shape(gathered: Any, tensor: Any) -> Any:
    return tf.ensure_shape(gathered, [None, *tensor.shape[1:]])
