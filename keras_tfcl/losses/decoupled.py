from __future__ import annotations

from typing import Any

import keras

from keras_tfcl.losses.contrastive import ContrastiveLoss
from keras_tfcl.ops import replicas
from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.info_nce import AnchorLosses
from keras_tfcl.ops.pair_sums import decoupling_weights
from keras_tfcl.scaling import Temperature
from keras_tfcl.typing import Config
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class DecoupledInfoNCE(ContrastiveLoss):
    """Computes decoupled InfoNCE (DCL), whose denominator leaves out the positives; with `sigma`, DCLW.

    Formula, with s+ the mean cosine of anchor i to its positives and N its negatives:

        loss_i = -w_i s+_i / t + log( sum over N of exp(s_ij / t) )
        w_i = 1, or with sigma  w_i = 2 - exp(s+_i / sigma) / mean over the anchors of exp(s+ / sigma)

    The weight increases with the distance of the positives. Its mean is 1, and no gradient flows through it. InfoNCE
    with one positive is the softplus of DCL, so the gradient of DCL does not fade in small batches. The loss may be
    negative. See `ContrastiveLoss` for labels, shapes, numerics and errors.

    Args:
        temperature: positive number. Defaults to 0.1.
        sigma: number of at least 0.01; the authors use 0.5. Defaults to None: w = 1.
        **kwargs: `negatives`, `cross_view_only`, `block_size`, `precision`, `reduction`, `name`, `dtype`
            of `ContrastiveLoss`.

    Raises:
        ValueError: if `temperature` is not positive and finite, or `sigma` not finite and at least 0.01; and as
            `ContrastiveLoss`.

    Example:

    >>> z = np.random.default_rng(0).normal(size=(8, 2, 4)).astype("float32")
    >>> same = keras_tfcl.ContrastiveLoss(0.1, decoupled=True)
    >>> bool(keras_tfcl.DecoupledInfoNCE(0.1)(np.arange(8), z) == same(np.arange(8), z))
    True

    Reference: Yeh et al. 2022, "Decoupled Contrastive Learning", arXiv 2110.06848.
    """

    def __init__(
        self, temperature: float = 0.1, sigma: float | None = None, *, name: str = "decoupled_infonce", **kwargs: Any
    ) -> None:
        scaling = Temperature(temperature)
        super().__init__(scaling, decoupled=True, name=name, **kwargs)
        self.temperature = scaling.temperature
        self.sigma = None if sigma is None else positive_number("sigma", sigma, "The authors use 0.5.")
        if self.sigma is not None and self.sigma < 0.01:
            raise ValueError(f"`sigma` must be at least 0.01. Received: sigma={sigma!r}. The authors use 0.5.")

    @property
    def corrects_sampling(self) -> bool:
        return self.sigma is None  # the weights are of cosines, which the correction is not

    def _losses_of(self, comparison: Comparison) -> AnchorLosses:
        statistics = self._statistics(comparison)
        losses = statistics.losses(decoupled=True)
        if self.sigma is None:
            return losses
        positive = statistics.mean_positive * self.temperature  # the mean cosine
        # Compared with given candidates, the anchors of all replicas make one batch.
        total = None if comparison.candidates is None else replicas.total
        weight = decoupling_weights(positive, losses.valid, self.sigma, total)
        return statistics.losses(decoupled=True, weight=weight)

    def get_config(self) -> Config:
        config = super().get_config()
        del config["scaling"], config["decoupled"]
        return {**config, "temperature": self.temperature, "sigma": self.sigma}
