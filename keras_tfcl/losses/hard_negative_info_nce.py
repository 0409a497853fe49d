from __future__ import annotations

from typing import Any

import keras

from keras_tfcl.losses.contrastive import ContrastiveLoss
from keras_tfcl.negatives import HardNegatives
from keras_tfcl.scaling import Arctanh, Temperature
from keras_tfcl.typing import Config


@keras.saving.register_keras_serializable(package="keras_tfcl")
class HardNegativeInfoNCE(ContrastiveLoss):
    """Computes InfoNCE over the hardest negatives of each anchor.

    Of the n negatives of an anchor, those whose cosine is at least the k-th largest are kept, with
    `k = ceil(alpha * n)` or `k = top_k`, and at most n. Ties and positives are always kept. The choice weakens the
    dependence on the temperature and favours larger temperatures. See `ContrastiveLoss` for the formula, labels,
    shapes, numerics and errors.

    Args:
        temperature: positive number, or None for arctanh logits. Defaults to 0.1.
        alpha: fraction of the negatives to keep, in (0, 1]. Defaults to 0.1 when `top_k` is not given either.
        top_k: number of negatives to keep, at least 1. Pass `alpha` or `top_k`, not both.
        **kwargs: `decoupled`, `cross_view_only`, `block_size`, `precision`, `reduction`, `name`, `dtype`
            of `ContrastiveLoss`.

    Raises:
        ValueError: if both `alpha` and `top_k` are given, or an argument is out of range; and as `ContrastiveLoss`.

    Example:

    >>> loss = keras_tfcl.HardNegativeInfoNCE(temperature=None, top_k=2)
    >>> z = np.random.default_rng(0).normal(size=(8, 2, 4)).astype("float32")
    >>> float(loss(np.arange(8), z)) < float(keras_tfcl.ArctanhInfoNCE()(np.arange(8), z))
    True

    Reference: Wang and Liu 2021, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740, eq. 9.
    """

    def __init__(
        self,
        temperature: float | None = 0.1,
        alpha: float | None = None,
        top_k: int | None = None,
        *,
        name: str = "hard_negative_infonce",
        **kwargs: Any,
    ) -> None:
        scaling = Arctanh() if temperature is None else Temperature(temperature)
        super().__init__(scaling, negatives=HardNegatives(alpha, top_k), name=name, **kwargs)
        self.temperature = temperature
        self.alpha = alpha
        self.top_k = top_k

    def get_config(self) -> Config:
        config = super().get_config()
        del config["scaling"], config["negatives"]
        return {**config, "temperature": self.temperature, "alpha": self.alpha, "top_k": self.top_k}
