from __future__ import annotations

import keras

from keras_tfcl.negatives.negatives import Negatives
from keras_tfcl.ops.hard import number_of_hardest
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import fraction, positive_integer

DEFAULT_ALPHA = 0.1


@keras.saving.register_keras_serializable(package="keras_tfcl")
class HardNegatives(Negatives):
    """Keeps the hardest negatives of each anchor: those nearest to it.

    Of an anchor's n negatives it keeps those with `s >= the k-th largest s`, where `k = ceil(alpha * n)` or `top_k`,
    and never more than n. Ties with the k-th stay. Positives are not touched.

    Args:
        alpha: fraction of the negatives to keep, in (0, 1]. Defaults to 0.1 when `top_k` is not given either.
        top_k: number of negatives to keep, at least 1. Give one of the two.

    Raises:
        ValueError: if both are given, or one is out of range.

    Example:

    >>> loss = keras_tfcl.ContrastiveLoss("arctanh", negatives=keras_tfcl.HardNegatives(top_k=64))

    Reference: Wang and Liu 2021, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740, eq. 8 and 9.
    """

    def __init__(self, alpha: float | None = None, top_k: int | None = None) -> None:
        if alpha is not None and top_k is not None:
            raise ValueError(
                "`alpha` and `top_k` both choose the number of hard negatives: give one of them. "
                f"Received: alpha={alpha!r}, top_k={top_k!r}."
            )
        if alpha is not None:
            alpha = fraction("alpha", alpha, "It is the share of each anchor's negatives to keep, such as 0.1.")
        if top_k is not None:
            top_k = positive_integer("top_k", top_k, "It is the number of negatives to keep for each anchor.")
        self.alpha = alpha
        self.top_k = top_k

    def hardest(self, count: Tensor) -> Tensor:
        alpha = DEFAULT_ALPHA if self.alpha is None and self.top_k is None else self.alpha
        return number_of_hardest(count, alpha=alpha, top_k=self.top_k)

    def get_config(self) -> Config:
        return {"alpha": self.alpha, "top_k": self.top_k}
