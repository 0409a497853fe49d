from __future__ import annotations

import keras

from keras_tfcl.negatives.negatives import Negatives
from keras_tfcl.ops.reweighted import reweighted_from_log_sums, reweighting_powers
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import is_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ReweightedNegatives(Negatives):
    """Weighs the negatives by their hardness and corrects their sum for false negatives (HCL, Debiased).

    Formula: `keras_tfcl.ops.reweighted_log_sum`. `beta=0` is the debiased loss, `tau_plus=0` pure reweighting, both 0
    is InfoNCE. With `beta -> inf` only the hardest negative counts.

    Args:
        beta: concentration on hard negatives, a number >= 0; the weight is `exp(beta * logit)`. Defaults to 1.
        tau_plus: prior probability that a negative is of the anchor's class, in [0, 1). Defaults to 0.
        detach: no gradient through the weights. Defaults to False, as in the official code, where negatives with
            `exp(logit) < beta / (1 + beta) * (their weighted mean)` are attracted rather than repelled; True keeps
            every negative repelled.

    Raises:
        ValueError: if `beta` is negative or not finite, or `tau_plus` is outside [0, 1).

    Example:

    >>> loss = keras_tfcl.ContrastiveLoss(0.5, negatives=keras_tfcl.ReweightedNegatives(beta=1.0, tau_plus=0.1))

    References: Robinson et al. 2021, "Contrastive Learning with Hard Negative Samples", arXiv 2010.04592; Chuang et al.
    2020, "Debiased Contrastive Learning", arXiv 2007.00224.
    """

    def __init__(self, beta: float = 1.0, tau_plus: float = 0.0, detach: bool = False) -> None:
        if not is_number(beta) or not 0 <= beta < float("inf"):
            raise ValueError(
                f"`beta` must be a finite number >= 0. Received: beta={beta!r}. 1 is usual; 0 turns it off."
            )
        if not is_number(tau_plus) or not 0 <= tau_plus < 1:
            raise ValueError(
                f"`tau_plus` must be a number in [0, 1). Received: tau_plus={tau_plus!r}. "
                "It is the share of false negatives, about 1 / number of classes; 0 turns the correction off."
            )
        self.beta = float(beta)
        self.tau_plus = float(tau_plus)
        self.detach = detach

    @property
    def powers(self) -> tuple[tuple[float, float], ...]:  # type: ignore[override]  # a constant of the class
        return reweighting_powers(self.beta, self.detach)

    def from_log_sums(self, log_sums: list[Tensor], log_positive: Tensor, log_count: Tensor, lowest: Tensor) -> Tensor:
        return reweighted_from_log_sums(log_sums, log_positive, log_count, lowest, tau_plus=self.tau_plus)

    def get_config(self) -> Config:
        return {"beta": self.beta, "tau_plus": self.tau_plus, "detach": self.detach}
