from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_tfcl import negatives as negatives_module
from keras_tfcl.losses.embedding_loss import EmbeddingLoss
from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.info_nce import AnchorLosses
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.ops.pair_sums import simple_losses
from keras_tfcl.ops.pairwise import Count, Logits, Sum, reduce_pairs
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class SimpleContrastiveLoss(EmbeddingLoss):
    """Computes the simple contrastive loss, a baseline in which all negatives repel alike, however near they are.

    Formula, for each anchor i with cosines s, positives P and chosen negatives N:

        loss_i = -mean over p in P of s_ip  +  weight * sum over j in N of s_ij

    It is the limit of InfoNCE for large temperatures: `t (M + 1) / M * (InfoNCE_t - log(M + 1))` tends to it for one
    positive, M negatives and the default weight 1 / M. By itself it leaves embeddings far from uniform. With
    `HardNegatives` (HardSimple) it comes close to a tuned temperature. The loss may be negative. See `ContrastiveLoss`
    for labels, shapes, numerics and errors.

    Args:
        weight: a positive number. Defaults to None, which means 1 / M for the M chosen negatives of the anchor, so that
            the sum becomes their mean. (The paper does not state its weight.)
        negatives: `"all"`, or a choice among them such as `HardNegatives(top_k=64)`. Defaults to `"all"`.
        **kwargs: `cross_view_only`, `block_size`, `precision`, `reduction`, `name`, `dtype`, `roles`, `symmetric`,
            `ignore_class`, `unlabelled_class`, `same_label` of `ContrastiveLoss`.

    Raises:
        ValueError: if `weight` is not positive and finite, or `negatives` weighs instead of choosing
            (`ReweightedNegatives`); and as `ContrastiveLoss`.

    Example:

    >>> loss = keras_tfcl.SimpleContrastiveLoss(negatives=keras_tfcl.HardNegatives(top_k=1))
    >>> z = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], "float32")
    >>> float(loss(np.array([0, 0, 1, 1]), z))
    -1.0

    Reference: Wang and Liu 2021, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740, eq. 3 and 7.
    """

    def __init__(
        self,
        weight: float | None = None,
        negatives: str | negatives_module.Negatives = "all",
        *,
        name: str = "simple_contrastive",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.weight = None if weight is None else positive_number("weight", weight, "None takes 1 / negatives.")
        self.negatives = negatives_module.get(negatives)
        if self.negatives.weighs:
            weighing = getattr(self.negatives, "negatives", self.negatives)  # a guard weighs as what it guards does
            raise ValueError(
                "`negatives` of SimpleContrastiveLoss must choose, as 'all' and HardNegatives do: it sums cosines, and "
                f"has no exponentials to weigh. Received: negatives={type(weighing).__name__}."
            )

    def losses_of_pairs(self, similarity: Tensor, pairs: Pairs) -> Tensor:
        kept = self.negatives.keep(keras.ops.stop_gradient(similarity), pairs.negative)
        return simple_losses(similarity, Pairs(pairs.positive, pairs.negative & kept), self.weight)

    def _losses_of(self, comparison: Comparison) -> AnchorLosses:
        """The same in tiles, from four sums for each anchor."""
        block = self._block(comparison)
        if block is None or self.negatives.whole_rows:
            return super()._losses_of(comparison)
        attraction, positives, repulsion, negatives = reduce_pairs(
            comparison,
            [Sum("positive"), Count("positive"), Sum("negative"), Count("negative")],
            Logits(tf.identity, holder=self.negatives),
            block=block,
            precision=self.precision,
            allows=self.negatives.allows,
            hardest=self.negatives.hardest,
        ).joined()
        weight = 1.0 / tf.maximum(negatives, 1.0) if self.weight is None else self.weight
        losses = weight * repulsion - attraction / tf.maximum(positives, 1.0)
        return AnchorLosses(tf.where(positives > 0, losses, 0.0), positives > 0)

    def get_config(self) -> Config:
        negatives = keras.saving.serialize_keras_object(self.negatives)
        return {**super().get_config(), "weight": self.weight, "negatives": negatives}
