"""Losses of pairs that have a score instead of a label that they share."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl.losses.checks import check_embeddings
from keras_tfcl.losses.reduction import broadcast_weight, reduce_losses
from keras_tfcl.ops.scored_pairs import contrastive_pair_losses, cosent_loss, pair_cosines
from keras_tfcl.typing import Config, DType, Tensor, TensorLike
from keras_tfcl.validation import positive_number


class ScoredPairLoss(keras.losses.Loss):
    """Base class of losses of pairs, in which `y_true` scores each pair and no pair is compared with others' samples.

    A subclass computes its loss from one cosine and one score for each pair, both float64 `(B,)`.
    """

    def __call__(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None) -> Tensor:
        with keras.name_scope(self.name):
            y_pred = ops.convert_to_tensor(y_pred)
            _check_pairs(y_pred)
            scores = _as_scores(y_true, y_pred)
            known = self.known(scores)
            if tf.executing_eagerly() and not bool(tf.reduce_all(known)):
                raise ValueError(
                    f"`y_true` must hold {self.scores_are}, one for each pair. Received: {scores[~known][0].numpy()} "
                    f"in pair {int(tf.argmax(~known))}. Drop such pairs, or weigh them 0 with a valid score."
                )
            loss = self.of_pairs(pair_cosines(y_pred), scores, sample_weight)
            return ops.cast(tf.where(tf.reduce_all(known), loss, float("nan")), self.dtype)

    def call(self, y_true: TensorLike, y_pred: TensorLike) -> Tensor:
        """Computes the loss without weights."""
        return self(y_true, y_pred)

    scores_are = "finite numbers"

    def known(self, scores: Tensor) -> Tensor:
        """Returns which scores are valid, bool `(B,)`."""
        return tf.math.is_finite(scores)

    def of_pairs(self, cosines: Tensor, scores: Tensor, sample_weight: TensorLike | None) -> Tensor:
        """Computes the loss from one cosine, score and weight for each pair."""
        raise NotImplementedError(f"{type(self).__name__} must define `of_pairs(cosines, scores, sample_weight)`.")


@keras.saving.register_keras_serializable(package="keras_tfcl")
class CoSENTLoss(ScoredPairLoss):
    """Ranks pairs by their cosines: of two pairs of a batch, the one with the higher score should have the higher one.

    Formula, with cosines s of the pairs: `log(1 + sum of exp(scale * (s_j - s_i)))` over all pairs of pairs i, j with
    `score_i > score_j`. Only the order of the scores matters, so they may have any scale, also 0 and 1. It is one
    number for the whole batch and grows with it. Time grows as `B log B`, memory as B. Computed in float64.

    In a `ContrastiveModel`, pass `supervised=True` and the scores as y: `fit((first, second), scores)`. It has neither
    negatives nor labels, so it works with neither `momentum` nor several replicas.

    Args:
        scale: positive number, an inverse temperature. Defaults to 20, as in sentence-transformers.
        name: name of the loss.
        dtype: dtype of the result. Defaults to `keras.backend.floatx()`.

    Call arguments:
        y_true: scores `(B,)` or `(B, 1)`, finite numbers.
        y_pred: float embeddings `(B, 2, D)`, need not be normalised.
        sample_weight: `(B,)`; the weight of a term is the product of the weights of its pairs, and a pair of weight 0
            is left out.

    Raises:
        ValueError: if `scale` is not positive and finite; for other shapes; outside `tf.function` also for scores,
            weights or embeddings out of range, which inside make the loss NaN.

    Example:

    >>> views = np.array([[[1.0, 0.0], [1.0, 0.1]], [[1.0, 0.0], [0.0, 1.0]]], "float32")
    >>> right, wrong = (float(CoSENTLoss()(scores, views)) for scores in ([5.0, 1.0], [1.0, 5.0]))
    >>> round(right, 4), round(wrong, 4)
    (0.0, 19.9007)

    Reference: Huang et al. 2024, "CoSENT: Consistent Sentence Embedding via Similarity Ranking", IEEE/ACM TASLP.
    """

    def __init__(self, scale: float = 20.0, name: str = "cosent", dtype: DType | None = None) -> None:
        super().__init__(name=name, reduction="sum_over_batch_size", dtype=dtype)
        self.scale = positive_number("scale", scale, "sentence-transformers uses 20.")

    def of_pairs(self, cosines: Tensor, scores: Tensor, sample_weight: TensorLike | None) -> Tensor:
        weight = None
        if sample_weight is not None:
            weight = broadcast_weight(sample_weight, cosines) * ops.ones_like(cosines)
        return cosent_loss(cosines, scores, self.scale, weight)

    def get_config(self) -> Config:
        return {"name": self.name, "dtype": self.dtype, "scale": self.scale}


@keras.saving.register_keras_serializable(package="keras_tfcl")
class PairContrastiveLoss(ScoredPairLoss):
    """Draws pairs with the label 1 together, and pairs with the label 0 apart up to a margin.

    Formula, with the cosine distance `d = 1 - s` of a pair: `d^2 / 2` for the label 1, and `max(margin - d, 0)^2 / 2`
    for the label 0. Each pair counts by itself, whatever else is in the batch. It suits pairs that people have
    judged. If only similar pairs are known, InfoNCE finds negatives in the batch and learns more from them.

    In a `ContrastiveModel`, pass `supervised=True` and the labels as y: `fit((first, second), labels)`. It works with
    neither `momentum` nor several replicas.

    Args:
        margin: number in (0, 2], the distance from which dissimilar pairs have no loss. Defaults to 0.5.
        reduction: `"sum_over_batch_size"` (the mean, the default), `"sum"`, `"mean_with_sample_weight"`, or `"none"`.
        name: name of the loss.
        dtype: dtype of the result. Defaults to `keras.backend.floatx()`.

    Call arguments:
        y_true: labels `(B,)` or `(B, 1)`, 0 or 1.
        y_pred: float embeddings `(B, 2, D)`, need not be normalised.
        sample_weight: `(B,)`, the weight of each pair.

    Raises:
        ValueError: as `CoSENTLoss`, and for labels other than 0 and 1.

    Example:

    >>> views = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]], "float32")
    >>> PairContrastiveLoss(reduction="none")([1, 0], views).numpy()
    array([0.5  , 0.125], dtype=float32)

    Reference: Hadsell et al. 2006, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR.
    """

    scores_are = "labels of pairs, 0 or 1"

    def __init__(
        self,
        margin: float = 0.5,
        reduction: str | None = "sum_over_batch_size",
        name: str = "pair_contrastive",
        dtype: DType | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.margin = positive_number("margin", margin, "0.5 is usual.")
        if self.margin > 2:
            raise ValueError(f"`margin` must be a number in (0, 2]. Received: margin={margin!r}. 0.5 is usual.")

    def known(self, scores: Tensor) -> Tensor:
        return (scores == 0) | (scores == 1)

    def of_pairs(self, cosines: Tensor, scores: Tensor, sample_weight: TensorLike | None) -> Tensor:
        losses = contrastive_pair_losses(cosines, scores, self.margin)
        return reduce_losses(losses, ops.ones_like(losses, "bool"), sample_weight, self.reduction)

    def get_config(self) -> Config:
        return {**super().get_config(), "dtype": self.dtype, "margin": self.margin}


def _check_pairs(y_pred: Tensor) -> None:
    check_embeddings(y_pred)
    if y_pred.shape.rank != 3 or y_pred.shape[1] != 2:
        raise ValueError(
            "`y_pred` must hold the two embeddings of each pair, shape (B, 2, D). Received: "
            f"shape={tuple(y_pred.shape)}. Stack them on axis 1."
        )


def _as_scores(y_true: TensorLike, y_pred: Tensor) -> Tensor:
    """float64 `(B,)`."""
    scores = ops.convert_to_tensor(y_true)
    if scores.shape.rank == 2 and scores.shape[1] == 1:
        scores = tf.squeeze(scores, 1)
    if scores.shape.rank != 1 or not scores.shape.is_compatible_with(y_pred.shape[:1]):
        raise ValueError(
            "`y_true` must hold one score for each pair. Received: scores of shape "
            f"{tuple(scores.shape)} for y_pred of shape {tuple(y_pred.shape)}. Pass an array of shape (B,)."
        )
    return tf.cast(scores, "float64")
