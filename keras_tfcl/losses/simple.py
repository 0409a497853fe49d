from __future__ import annotations

from typing import Any

import keras

from keras_tfcl import negatives as negatives_module
from keras_tfcl.losses.embedding_loss import EmbeddingLoss
from keras_tfcl.negatives import Negatives, WithoutNearDuplicates
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.ops.pair_sums import simple_losses
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class SimpleContrastiveLoss(EmbeddingLoss):
    """The simple contrastive loss: all negatives repel alike, however near they are. A baseline, not advice.

    Formula, for each anchor i with cosines s, positives P and chosen negatives N:

        loss_i = -mean over p in P of s_ip  +  weight * sum over j in N of s_ij

    It is what InfoNCE tends to as its temperature grows: `t (M + 1) / M * (InfoNCE_t - log(M + 1))` goes to it for
    one positive, M negatives and the default weight 1 / M. Alone it leaves embeddings far from uniform; with
    `HardNegatives` (HardSimple) it rivals a tuned temperature. May be negative. See `ContrastiveLoss` for labels,
    shapes,
    numerics and errors.

    Args:
        weight: positive number. Defaults to None, 1 / M with M the number of the anchor's negatives that count: the
            mean over them. (The paper does not give its weight.)
        negatives: `"all"`, or a choice among them such as `HardNegatives(top_k=64)`. Defaults to `"all"`.
        cross_view_only, reduction, name, dtype: of `ContrastiveLoss`.

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
        negatives: Any = "all",
        cross_view_only: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "simple_contrastive",
        dtype: Any = None,
    ) -> None:
        super().__init__(cross_view_only, reduction, name, dtype)
        self.weight = None if weight is None else positive_number("weight", weight, "None takes 1 / negatives.")
        self.negatives = negatives_module.get(negatives)
        chooser = self.negatives
        while isinstance(chooser, WithoutNearDuplicates):  # it hands its `log_sum` on
            chooser = chooser.negatives
        if type(chooser).log_sum is not Negatives.log_sum:
            raise ValueError(
                "`negatives` of SimpleContrastiveLoss must choose, as 'all' and HardNegatives do: it sums cosines, and "
                f"has no exponentials to weigh. Received: negatives={type(chooser).__name__}."
            )

    def losses_of_pairs(self, similarity: Any, pairs: Pairs) -> Any:
        kept = self.negatives.keep(keras.ops.stop_gradient(similarity), pairs.negative)
        return simple_losses(similarity, Pairs(pairs.positive, kept), self.weight)

    def get_config(self) -> dict[str, Any]:
        negatives = keras.saving.serialize_keras_object(self.negatives)
        return {**super().get_config(), "weight": self.weight, "negatives": negatives}
