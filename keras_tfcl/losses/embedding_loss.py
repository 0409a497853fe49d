from __future__ import annotations

import warnings

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl.losses.reduction import reduce_losses
from keras_tfcl.losses.untrained_variables import warn_of_untrained_variables
from keras_tfcl.ops import replicas
from keras_tfcl.ops.block_size import check_block_size, choose_block
from keras_tfcl.ops.candidates import Candidates, constant_log_probability
from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.info_nce import AnchorLosses
from keras_tfcl.ops.masks import Pairs, as_labels
from keras_tfcl.ops.pair_rule import PairRule
from keras_tfcl.ops.pairwise import Logits, check_precision, map_rows
from keras_tfcl.typing import Config, Tensor, TensorLike


class EmbeddingLoss(keras.losses.Loss):
    """Base class of contrastive losses, which compare embeddings by their labels.

    It checks the arguments, splits all pairs into positives (equal labels, not the same embedding) and negatives, never
    casts labels to float, and reduces over the anchors that have a positive. A subclass computes the losses of the
    anchors from their cosines. What `ContrastiveLoss` says about labels, shapes, numerics and errors applies to it too.

    >>> @keras.saving.register_keras_serializable(package="docs")
    ... class Quadratic(keras_tfcl.losses.EmbeddingLoss):
    ...     def losses_of_pairs(self, similarity, pairs):
    ...         positive = keras.ops.where(pairs.positive, (1 - similarity) ** 2, 0)
    ...         negative = keras.ops.where(pairs.negative, keras.ops.relu(similarity) ** 2, 0)
    ...         return keras.ops.sum(positive + negative, axis=1)
    >>> float(Quadratic()(np.array([0, 0, 1]), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])))
    0.0

    Args:
        cross_view_only: whether to compare different views only. Defaults to False.
        reduction: as in `ContrastiveLoss`. Defaults to `"sum_over_batch_size"`.
        name: name of the loss.
        dtype: dtype of the result. Defaults to `keras.backend.floatx()`.
        block_size: as in `ContrastiveLoss`. Defaults to `"auto"`.
        roles, symmetric, ignore_class, unlabelled_class, same_label, precision: as in `ContrastiveLoss`.
    """

    def __init__(
        self,
        cross_view_only: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | keras.dtype_policies.DTypePolicy | None = None,
        block_size: str | int = "auto",
        roles: tuple[str, ...] | None = None,
        symmetric: bool = False,
        ignore_class: int | None = None,
        unlabelled_class: int | None = None,
        same_label: str = "positive",
        precision: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.cross_view_only = cross_view_only
        self.rule = PairRule(cross_view_only, roles, symmetric, ignore_class, unlabelled_class, same_label)
        self.block_size = check_block_size(block_size)
        self.precision = check_precision(precision)
        self._warned = False
        self._warned_of_variables = False

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and reading the sources takes seconds
    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: TensorLike | None = None) -> Tensor:
        self._warned_of_variables = self._warned_of_variables or warn_of_untrained_variables(self)
        # Keras' own __call__ would cast the labels to float: 2048 and 2049 are one number in float16.
        with keras.name_scope(self.name):
            losses, valid = self._anchor_losses(y_true, y_pred)
            return reduce_losses(losses, valid, sample_weight, self.reduction)

    @tf.autograph.experimental.do_not_convert
    def against(
        self, y_true: Tensor, y_pred: Tensor, candidates: Candidates, sample_weight: TensorLike | None = None
    ) -> Tensor:
        """Computes the loss of anchors that are compared with the given candidates, and not with one another.

        Under `tf.distribute`, it returns the loss of the anchors of all replicas divided by the number of replicas, as
        Keras expects. The value is the same on every replica, and the gradients of the replicas add up to the gradient
        of the whole loss.

        Args:
            y_true: integer labels of the anchors, `(B,)` or `(B, 1)`.
            y_pred: float embeddings of the anchors, `(B, D)` or `(B, V, D)`.
            candidates: `keras_tfcl.ops.Candidates`.
            sample_weight: weight of each anchor, `(B,)` or `(B, V)`.

        Returns:
            The same as a call of the loss: a scalar, or `(B,)` or `(B, V)` for reduction None.

        Example:

        >>> z = np.random.default_rng(0).normal(size=(4, 2, 8)).astype("float32")
        >>> themselves = keras_tfcl.ops.Candidates(z.reshape(8, 8), np.arange(4).repeat(2), self_index=np.arange(8))
        >>> loss = keras_tfcl.InfoNCE(0.2)
        >>> bool(loss.against(np.arange(4), z, themselves) == loss(np.arange(4), z))
        True
        """
        with keras.name_scope(self.name):
            losses, valid = self._anchor_losses(y_true, y_pred, candidates)
            return reduce_losses(losses, valid, sample_weight, self.reduction, over_replicas=True)

    @tf.autograph.experimental.do_not_convert
    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss of each anchor, `(B,)` or `(B, V)`, without reduction or weights."""
        return self._anchor_losses(y_true, y_pred).loss

    def losses_of_pairs(self, similarity: Tensor, pairs: Pairs) -> Tensor:
        """Computes the loss of each anchor. This is the only method that a subclass must define.

        Args:
            similarity: cosines `(A, C)` of A anchors and C candidates: float64 if all anchors are computed at once,
                float32 if a part of them is computed at a time (see `block_size`).
            pairs: positives and negatives, bool `(A, C)` each; an embedding with itself is neither.

        Returns:
            `(A,)`. The value for anchors without a positive is ignored, but must be finite.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `losses_of_pairs(similarity, pairs)`.")

    def _anchor_losses(self, y_true: Tensor, y_pred: Tensor, candidates: Candidates | None = None) -> AnchorLosses:
        y_pred = ops.convert_to_tensor(y_pred)
        labels = as_labels(y_true, multi_hot=True)
        self._check(labels, y_pred)
        if candidates is not None:
            candidates = self._checked_candidates(candidates, y_pred)
        self.rule.check(labels, y_pred, candidates)
        parts = []
        for comparison in self.rule.comparisons(labels, _with_rows(y_pred), candidates):
            losses, valid = self._losses(comparison)
            losses = ops.cast(comparison.nan_unless_finite(losses), self.dtype)
            parts.append([ops.reshape(x, (-1, comparison.anchors_per_sample)) for x in (losses, valid)])
        losses, valid = (ops.concatenate(x, axis=1) for x in zip(*parts, strict=True))
        self._warn_without_positives(valid)
        one = len(y_pred.shape) == 2 or (self.rule.roles is not None and losses.shape[1] == 1)
        return AnchorLosses(losses[:, 0], valid[:, 0]) if one else AnchorLosses(losses, valid)

    def _losses(self, comparison: Comparison) -> AnchorLosses:
        """The losses by `losses_of_pairs`: all at once, or of some anchors at a time."""

        def of_rows(cosines: Tensor, pairs: Pairs, variables: Logits) -> list[Tensor]:
            losses = variables.run(self.losses_of_pairs, cosines, pairs)
            return [losses, tf.cast(tf.reduce_any(pairs.positive, 1), cosines.dtype)]

        variables, block = Logits(tf.identity, holder=self), self._block(comparison)
        if block is None or not variables.explains(
            self.losses_of_pairs, tf.zeros([1, 1]), Pairs(*[tf.ones([1, 1], "bool")] * 2)
        ):
            losses, valid = of_rows(comparison.cosines(), comparison.pairs(), variables)
        else:
            losses, valid = map_rows(of_rows, comparison, variables, outputs=2, block=block, precision=self.precision)
        return AnchorLosses(ops.where(valid > 0, losses, 0.0), valid > 0)

    def _block(self, comparison: Comparison) -> int | None:
        """The edge of the tiles, or None for the dense form."""
        return choose_block(self.block_size, *comparison.size)

    def _check(self, labels: Tensor, y_pred: Tensor) -> None:
        check_embeddings(y_pred)
        rows, count = y_pred.shape[0], labels.shape[0]
        if rows is not None and count is not None and rows != count:
            raise ValueError(
                "`y_true` must hold one label for each row of `y_pred`. Received: "
                f"{count} labels for y_pred of shape {tuple(y_pred.shape)}."
            )

    def _checked_candidates(self, candidates: Candidates, y_pred: Tensor) -> Candidates:
        embeddings, labels = (
            ops.convert_to_tensor(candidates.embeddings),
            as_labels(candidates.labels, "candidates.labels", multi_hot=True),
        )
        rows, count = embeddings.shape[0], labels.shape[0]
        fits = len(embeddings.shape) == 2 and embeddings.shape[1] == y_pred.shape[-1]
        if not fits or (rows is not None and count is not None and rows != count):
            raise ValueError(
                "`candidates` must hold embeddings (C, D), D as in `y_pred`, and one label each. Received: embeddings "
                f"of shape {tuple(embeddings.shape)} and {count} labels for y_pred of shape {tuple(y_pred.shape)}."
            )
        log_probability = constant_log_probability(candidates.log_probability)
        if log_probability is not None and not self.corrects_sampling:
            raise ValueError(
                "The log Q correction is for a softmax over candidates. Received: candidates with log_probability for "
                f"{type(self).__name__}. Use a loss such as InfoNCE, without sigma."
            )
        if log_probability is not None and not log_probability.shape.is_compatible_with([rows]):
            raise ValueError(
                f"`candidates.log_probability` must have shape ({rows},), one number for each candidate. Received: "
                f"{tuple(log_probability.shape)}."
            )
        return candidates._replace(embeddings=embeddings, labels=labels, log_probability=log_probability)

    def _warn_without_positives(self, valid: Tensor) -> None:
        if self._warned or not tf.executing_eagerly() or bool(ops.any(valid)):
            return
        self._warned = True
        warnings.warn(
            f"{self.name}: no embedding of this batch has {self._requirement}, so its loss is 0 and has no gradient. "
            "Pass several views of each sample (y_pred of shape (B, V, D)), or labels that repeat within the batch.",
            stacklevel=4,
        )

    @property
    def corrects_sampling(self) -> bool:
        """Whether candidates may have a `log_probability`."""
        return False

    @property
    def _requirement(self) -> str:
        """What an anchor must have to have a loss."""
        return "a positive"

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "dtype": self.dtype,
            "block_size": self.block_size,
            "precision": self.precision,
            **self.rule.get_config(),
        }


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
            f"Received: shape={tuple(y_pred.shape)}."
        )
    if y_pred.shape[-1] == 1:
        raise ValueError(
            "`y_pred` must hold embeddings of at least two features: all cosines of single numbers are 1 or -1. "
            f"Received: shape={tuple(y_pred.shape)}. Pass the output of an encoder, not the score of a classifier."
        )
    if tf.executing_eagerly():
        check_finite(y_pred)


def _with_rows(y_pred: Tensor) -> Tensor:
    """`y_pred`, with an error if a batch turns out to be empty; a single replica may be empty."""
    if y_pred.shape[0] is not None or replicas.replica_count() > 1:
        return y_pred
    message = "`y_pred` must have at least one row. Received: an empty batch. Drop empty batches from the data"
    with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(y_pred)[0], message=message)]):
        return tf.identity(y_pred)


def check_finite(y_pred: Tensor) -> None:
    """Raises ValueError that names the first row with NaN or Inf. For eager tensors."""
    bad = ops.convert_to_numpy(ops.any(~ops.isfinite(y_pred), axis=tuple(range(1, len(y_pred.shape)))))
    if bad.any():
        raise ValueError(
            f"`y_pred` must be finite. Received: NaN or Inf in {int(bad.sum())} of {len(bad)} rows, the first is row "
            f"{int(bad.argmax())}. Look at that row's input, lower the learning rate, or clip the gradients."
        )
