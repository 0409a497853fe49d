from __future__ import annotations

import warnings

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl.losses.checks import check_embeddings, check_labels, check_rows, checked_candidates
from keras_tfcl.losses.reduction import reduce_losses
from keras_tfcl.losses.untrained_variables import warn_of_untrained_variables
from keras_tfcl.ops.block_size import check_block_size, choose_block
from keras_tfcl.ops.candidates import Candidates
from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.info_nce import AnchorLosses
from keras_tfcl.ops.masks import Pairs, as_labels
from keras_tfcl.ops.pair_rule import PairRule
from keras_tfcl.ops.pairwise import check_precision, losses_by_rows
from keras_tfcl.typing import Config, DType, Tensor, TensorLike


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
        dtype: DType | None = None,
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

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "call" in vars(cls):
            raise TypeError(
                f"A contrastive loss is computed by `losses_of_pairs`. Received: {cls.__name__} with a `call` of its "
                "own, which would never be called. Define `losses_of_pairs(similarity, pairs)` instead."
            )

        def first(name: str) -> int:
            return next(i for i, base in enumerate(cls.__mro__) if name in vars(base))

        # A class that redefines the losses, or mixes in one that does, must not inherit tiles made for other losses.
        if first("losses_of_pairs") < first("_losses_of"):
            cls._losses_of = EmbeddingLoss._losses_of  # type: ignore[method-assign]  # of this class alone

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

    def _anchor_losses(self, y_true: Tensor, y_pred: Tensor, candidates: Candidates | None = None) -> AnchorLosses:
        """Computes the loss of each anchor, `(B,)` or `(B, V)`, and whether it counts."""
        labels, y_pred = as_labels(y_true, multi_hot=True), ops.convert_to_tensor(y_pred)
        check_embeddings(y_pred)
        check_labels(labels, y_pred)
        if candidates is not None:
            candidates = checked_candidates(candidates, y_pred, type(self).__name__, self.corrects_sampling)
        self.rule.check(labels, y_pred, candidates)
        comparisons = self.rule.comparisons(labels, check_rows(y_pred), candidates)
        directions = [self._by_sample(comparison) for comparison in comparisons]
        losses, valid = (ops.concatenate(x, axis=1) for x in zip(*directions, strict=True))
        self._warn_without_positives(valid)
        one_anchor = len(y_pred.shape) == 2 or (self.rule.roles is not None and losses.shape[1] == 1)
        return AnchorLosses(losses[:, 0], valid[:, 0]) if one_anchor else AnchorLosses(losses, valid)

    def _by_sample(self, comparison: Comparison) -> AnchorLosses:
        """Computes the losses of one comparison, `(B, anchors of a sample)`, in the dtype of the result."""
        losses, valid = self._losses_of(comparison)
        losses = ops.cast(comparison.nan_unless_finite(losses), self.dtype)
        return AnchorLosses(*(ops.reshape(x, (-1, comparison.anchors_per_sample)) for x in (losses, valid)))

    def _losses_of(self, comparison: Comparison) -> AnchorLosses:
        """Computes the losses of one comparison. Losses that are sums over pairs override it, to stream in tiles."""
        block = self._block(comparison)
        return AnchorLosses(*losses_by_rows(self.losses_of_pairs, comparison, self, block, self.precision))

    def _block(self, comparison: Comparison) -> int | None:
        """The edge of the tiles, or None for the dense form."""
        return choose_block(self.block_size, *comparison.size, comparison.symmetric)

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
