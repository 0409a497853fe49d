"""The settings under test: each is a loss, fixed by protocol.md before the first run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from candidates import CANDIDATES
from keras import ops

import keras_tfcl
from keras_tfcl.losses import EmbeddingLoss
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.typing import Tensor

TEMPERATURES = (0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1.0)
Build = Callable[..., keras.losses.Loss]  # (dimension, **keywords of keras_tfcl.ContrastiveLoss)


@keras.saving.register_keras_serializable(package="benchmarks")
class PositivePairScaling(EmbeddingLoss):
    """InfoNCE whose temperature is the mean squared distance of the batch's positive pairs, `2 - 2 * mean(s+)`.

    No gradient flows through the temperature, which is kept above 0.01, the smallest that CLIP allows. All pairs are
    computed at once, because the temperature is a mean over the whole batch.

    Args:
        **keywords: of `keras_tfcl.losses.EmbeddingLoss`.
    """

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**{"name": "positive_pair_scaling", "block_size": "dense", **keywords})

    def losses_of_pairs(self, similarity: Tensor, pairs: Pairs) -> Tensor:
        positive = ops.cast(pairs.positive, similarity.dtype)  # (A, C)
        count = ops.sum(positive, axis=1)
        mean = ops.sum(positive * similarity) / ops.maximum(ops.sum(count), 1)
        logits = similarity / ops.stop_gradient(ops.maximum(2 - 2 * mean, 0.01))
        compared = ops.where(pairs.positive | pairs.negative, logits, -1e30)
        return ops.logsumexp(compared, axis=1) - ops.sum(positive * logits, axis=1) / ops.maximum(count, 1)


def fisher_scale(dimension: int) -> float:
    """The scale at which the logits of random unit vectors in `dimension` dimensions have variance 1."""
    return math.sqrt(dimension - 2)


def _infonce(temperature: float) -> Build:
    return lambda dimension, **keywords: keras_tfcl.InfoNCE(temperature, **keywords)


def _arctanh(scale: float) -> Build:
    return lambda dimension, **keywords: keras_tfcl.ArctanhInfoNCE(scale, **keywords)


def _general(scaling: Callable[[], float | keras_tfcl.Scaling], negatives: str | keras_tfcl.Negatives = "all") -> Build:
    return lambda dimension, **keywords: keras_tfcl.ContrastiveLoss(scaling(), negatives, **keywords)


SETTINGS: dict[str, Build] = {
    "arctanh 2": _arctanh(2.0),
    "arctanh 8": _arctanh(8.0),
    "arctanh fisher": lambda dimension, **keywords: keras_tfcl.ArctanhInfoNCE(fisher_scale(dimension), **keywords),
    **{f"infonce {temperature}": _infonce(temperature) for temperature in TEMPERATURES},
    "learnable": _general(lambda: keras_tfcl.LearnableTemperature(0.07)),
    "pps": lambda dimension, **keywords: PositivePairScaling(**keywords),
    "hard 0.3": _general(lambda: 0.3, keras_tfcl.HardNegatives(alpha=0.1)),
    "reweighted 0.5": _general(lambda: 0.5, keras_tfcl.ReweightedNegatives(beta=1.0, tau_plus=0.1)),
}


def build(name: str, dimension: int, **keywords: Any) -> keras.losses.Loss:
    """The loss of a setting.

    Args:
        name: one of `SETTINGS` or `CANDIDATES`, or `"arctanh C"` with another scale C, which the scale law uses.
        dimension: D of the embeddings that the loss sees.
        **keywords: of `keras_tfcl.ContrastiveLoss`, such as `cross_view_only=True` or `roles=...`.
    """
    kind, _, value = name.partition(" ")
    if name in CANDIDATES:
        return CANDIDATES[name](fisher_scale(dimension), **keywords)
    if name not in SETTINGS and kind == "arctanh":
        return _arctanh(float(value))(dimension, **keywords)
    if name not in SETTINGS:
        raise ValueError(f"`name` must be one of {', '.join(SETTINGS)}. Received: name={name!r}.")
    return SETTINGS[name](dimension, **keywords)
