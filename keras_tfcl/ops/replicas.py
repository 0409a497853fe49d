"""The replicas of `tf.distribute`, as seen from one of them. Outside a replica, or with one alone, all is local."""

from __future__ import annotations

import tensorflow as tf

from keras_tfcl.typing import Tensor


def replica_count() -> int:
    """How many replicas take part in the present step."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def several_workers() -> bool:
    """Whether replicas live in several processes."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    jobs = {} if resolver is None else resolver.cluster_spec().as_dict()
    return sum(len(jobs.get(job, ())) for job in ("chief", "worker")) > 1


def gather(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of all replicas, replica by replica, of each tensor `(B, ...)`; replicas may have unequal B.

    Differentiable: a row's gradient is the sum of its gradients on all replicas. Exact, therefore, where the whole is
    the sum of what the replicas compute, as in Keras' training step.
    """
    if replica_count() == 1:
        return tensors
    start, everything = _places(tf.shape(tensors[0])[0])
    return tuple(_gather(tensor, start, everything) for tensor in tensors)


def first_row(rows: Tensor) -> Tensor:
    """Where this replica's `rows` start among the gathered ones, int32."""
    return tf.constant(0) if replica_count() == 1 else _places(rows)[0]


def total(value: Tensor) -> Tensor:
    """The sum of a value over replicas, without gradient."""
    value = tf.stop_gradient(value)
    if replica_count() == 1:
        return value
    return tf.stop_gradient(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value))


def with_value_of_all(share: Tensor) -> Tensor:
    """This replica's share of a sum, with the value of the mean share: each replica reports the same.

    The gradient stays that of the share.
    """
    if replica_count() == 1:
        return share
    return share + tf.stop_gradient(total(share) / replica_count() - share)


def _places(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where this replica's rows start, and the number of all replicas' rows."""
    mine = tf.one_hot(tf.distribute.get_replica_context().replica_id_in_sync_group, replica_count(), dtype="int32")
    counts = total(mine * tf.cast(rows, "int32"))  # (R,)
    return tf.reduce_sum(mine * tf.cumsum(counts, exclusive=True)), tf.reduce_sum(counts)


def _gather(tensor: Tensor, start: Tensor, everything: Tensor) -> Tensor:
    # A sum of rows padded with zeros, not `all_gather`: that fails where a worker has a single replica ("destinations
    # can not be empty", TensorFlow 2.21).
    if tensor.dtype.is_bool or tensor.dtype.is_integer:
        tensor = tf.cast(tensor, "int64")  # collectives add up no bool, and no integers such as uint8
    behind = everything - start - tf.shape(tensor)[0]
    padded = tf.pad(tensor, [[start, behind], *[[0, 0]] * (len(tensor.shape) - 1)])
    gathered = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, padded)
    return tf.ensure_shape(gathered, [None, *tensor.shape[1:]])
