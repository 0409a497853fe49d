from __future__ import annotations

from typing import Any

import keras

from keras_tfcl.losses.contrastive import ContrastiveLoss
from keras_tfcl.scaling import Temperature
from keras_tfcl.typing import Config


@keras.saving.register_keras_serializable(package="keras_tfcl")
class InfoNCE(ContrastiveLoss):
    """Computes InfoNCE with a temperature: NT-Xent, SupCon with labels, or CLIP with `cross_view_only=True`.

    Formula: `loss_i = -mean over p of log( exp(s_ip / t) / (sum over j != i of exp(s_ij / t)) )`, s the cosine, t the
    temperature, p the positives of i. See `ContrastiveLoss` for labels, shapes, numerics and errors.

    The authors' code of SimCLR returns the sum of the means of both views, which is twice this mean. The authors' code
    of SupCon multiplies by `t / base_temperature`, which is 1 at its defaults.

    Args:
        temperature: a positive number. Defaults to 0.1. Gradients are finite for values from 0.001 to 10.
        **kwargs: `negatives`, `decoupled`, `cross_view_only`, `block_size`, `precision`, `reduction`, `name`,
            `dtype` of `ContrastiveLoss`.

    Raises:
        ValueError: if `temperature` is not a positive finite number; and as `ContrastiveLoss`.

    Example:

    >>> loss = keras_tfcl.InfoNCE(temperature=0.5)
    >>> z = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]], "float32")
    >>> round(float(loss(np.array([0, 0, 1, 1]), z)), 4)  # class labels
    0.2899

    References: van den Oord et al. 2018 (CPC), arXiv 1807.03748; Chen et al. 2020 (SimCLR), arXiv 2002.05709; Khosla et
    al. 2020 (SupCon), arXiv 2004.11362; Radford et al. 2021 (CLIP), arXiv 2103.00020.
    """

    def __init__(self, temperature: float = 0.1, *, name: str = "infonce", **kwargs: Any) -> None:
        scaling = Temperature(temperature)
        super().__init__(scaling, name=name, **kwargs)
        self.temperature = scaling.temperature

    def get_config(self) -> Config:
        config = super().get_config()
        del config["scaling"]
        return {**config, "temperature": self.temperature}
