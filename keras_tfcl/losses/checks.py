"""Checks of what a loss is called with: embeddings, labels and candidates."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl.ops import replicas
from keras_tfcl.ops.candidates import Candidates, constant_log_probability
from keras_tfcl.ops.masks import as_labels
from keras_tfcl.typing import Tensor


def check_embeddings(y_pred: Tensor) -> None:
    """Raises ValueError unless `y_pred` is a float tensor `(B, D)` or `(B, V, D)`, and finite if it is eager."""
    dtype = keras.backend.standardize_dtype(y_pred.dtype)
    if "float" not in dtype:
        raise ValueError(
            f"`y_pred` must hold float embeddings. Received: dtype={dtype}. Check that `y_true` and "
            "`y_pred` are not swapped."
        )
    if len(y_pred.shape) not in (2, 3):
        raise ValueError(
            "`y_pred` must hold embeddings of shape (B, D), or (B, V, D) for V views of each sample. Received: "
            f"shape={tuple(y_pred.shape)}. Pool or flatten the encoder's output to one vector for each sample."
        )
    if None in tuple(y_pred.shape)[1:] or 0 in tuple(y_pred.shape):
        raise ValueError(
            "`y_pred` must have at least one row, view and feature, and a fixed number of views and features. "
            f"Received: shape={tuple(y_pred.shape)}. Leave out empty batches, and give the encoder "
            "an output of fixed size."
        )
    if y_pred.shape[-1] == 1:
        raise ValueError(
            "`y_pred` must hold embeddings of at least two features: all cosines of single numbers are 1 or -1. "
            f"Received: shape={tuple(y_pred.shape)}. Pass the output of an encoder, not the score of a classifier."
        )
    if tf.executing_eagerly():
        check_finite(y_pred)


def check_finite(y_pred: Tensor) -> None:
    """Raises ValueError that names the first row with NaN or Inf. For eager tensors."""
    bad = ops.convert_to_numpy(ops.any(~ops.isfinite(y_pred), axis=tuple(range(1, len(y_pred.shape)))))
    if bad.any():
        raise ValueError(
            f"`y_pred` must be finite. Received: NaN or Inf in {int(bad.sum())} of {len(bad)} rows, the first is row "
            f"{int(bad.argmax())}. Look at that row's input, lower the learning rate, or clip the gradients."
        )


def check_rows(y_pred: Tensor) -> Tensor:
    """Returns `y_pred`, with an error if a batch turns out to be empty in a graph; a single replica may be empty."""
    if y_pred.shape[0] is not None or replicas.replica_count() > 1:
        return y_pred
    message = "`y_pred` must have at least one row. Received: an empty batch. Drop empty batches from the data"
    with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(y_pred)[0], message=message)]):
        return tf.identity(y_pred)


def check_labels(labels: Tensor, y_pred: Tensor) -> None:
    """Raises ValueError unless there is one label for each row of `y_pred`, as far as the trace knows."""
    rows, count = y_pred.shape[0], labels.shape[0]
    if rows is not None and count is not None and rows != count:
        raise ValueError(
            "`y_true` must hold one label for each row of `y_pred`. Received: "
            f"{count} labels for y_pred of shape {tuple(y_pred.shape)}. Views of one sample share its label."
        )


def checked_candidates(candidates: Candidates, y_pred: Tensor, loss: str, corrects_sampling: bool) -> Candidates:
    """Returns the candidates as tensors.

    Args:
        candidates: with arrays or tensors.
        y_pred: the anchors.
        loss: name of the loss, for an error.
        corrects_sampling: whether this loss takes a `log_probability`.

    Raises:
        ValueError: they do not fit the anchors, one another or the loss.
    """
    embeddings = ops.convert_to_tensor(candidates.embeddings)
    labels = as_labels(candidates.labels, "candidates.labels", multi_hot=True)
    rows, count = embeddings.shape[0], labels.shape[0]
    fits = len(embeddings.shape) == 2 and embeddings.shape[1] == y_pred.shape[-1]
    if not fits or (rows is not None and count is not None and rows != count):
        raise ValueError(
            "`candidates` must hold embeddings (C, D), D as in `y_pred`, and one label for each. Received: embeddings "
            f"of shape {tuple(embeddings.shape)} and {count} labels for y_pred of shape {tuple(y_pred.shape)}. Embed "
            "anchors and candidates with the same model, and pass one integer for each candidate."
        )
    log_probability = constant_log_probability(candidates.log_probability)
    if log_probability is not None and not corrects_sampling:
        raise ValueError(
            "The log Q correction is for a softmax over candidates. Received: candidates with log_probability for "
            f"{loss}. Use a loss such as InfoNCE, without sigma."
        )
    if log_probability is not None and not log_probability.shape.is_compatible_with([rows]):
        raise ValueError(
            f"`candidates.log_probability` must have shape ({rows},), one number for each candidate. Received: "
            f"{tuple(log_probability.shape)}. Pass numpy.log(probability) of all candidates."
        )
    return candidates._replace(embeddings=embeddings, labels=labels, log_probability=log_probability)
