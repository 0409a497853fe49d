"""Two forms of arctanh that would enter the library if they won: centred and studentised. See protocol.md, change 7."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

import keras_tfcl
from keras_tfcl.losses import EmbeddingLoss
from keras_tfcl.ops import arctanh_logits
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.typing import Tensor, TensorLike


@keras.saving.register_keras_serializable(package="benchmarks")
class Centred(keras_tfcl.ArctanhInfoNCE):
    """ArctanhInfoNCE of embeddings whose mean over the batch is subtracted after they are normalised.

    Samples of `ignore_class` do not count in the mean, through which the gradient flows.
    """

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: TensorLike | None = None) -> Tensor:
        unit = ops.normalize(ops.convert_to_tensor(y_pred), axis=-1)
        axes = tuple(range(len(unit.shape) - 1))
        weight = ops.ones_like(unit[..., :1])  # (B, 1) or (B, V, 1)
        if self.rule.ignore_class is not None:
            counts = ops.not_equal(ops.reshape(y_true, (-1,) + (1,) * len(axes)), self.rule.ignore_class)
            weight = weight * ops.cast(counts, unit.dtype)
        mean = ops.sum(weight * unit, axis=axes) / ops.maximum(ops.sum(weight), 1)
        return super().__call__(y_true, unit - mean, sample_weight)


@keras.saving.register_keras_serializable(package="benchmarks")
class Studentised(EmbeddingLoss):
    """InfoNCE with the logit `c * arctanh(s)`, where `c = min(limit, 1 / d)` follows the spread of the negatives.

    d is the standard deviation of arctanh(s) over the negatives of the batch. No gradient flows through c. A batch has
    thousands of negatives, so no average over batches is kept. All pairs are computed at once, because d is of the
    whole batch.

    Args:
        limit: the largest scale.
        **keywords: of `keras_tfcl.losses.EmbeddingLoss`.
    """

    def __init__(self, limit: float, **keywords: Any) -> None:
        super().__init__(**{"name": "studentised", "block_size": "dense", **keywords})
        self.limit = limit

    def losses_of_pairs(self, similarity: Tensor, pairs: Pairs) -> Tensor:
        z = arctanh_logits(similarity, 1.0)  # (A, C)
        positive, negative = (ops.cast(mask, z.dtype) for mask in pairs)
        negatives = ops.maximum(ops.sum(negative), 1)
        mean = ops.sum(negative * z) / negatives
        deviation = ops.sqrt(ops.sum(negative * ops.square(z - mean)) / negatives)
        logits = z * ops.stop_gradient(ops.minimum(1 / ops.maximum(deviation, 1e-6), self.limit))
        count = ops.sum(positive, axis=1)
        compared = ops.where(pairs.positive | pairs.negative, logits, -1e30)
        return ops.logsumexp(compared, axis=1) - ops.sum(positive * logits, axis=1) / ops.maximum(count, 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "limit": self.limit}


# By name: from the scale of random unit vectors and the keywords of a loss.
CANDIDATES: dict[str, Callable[..., keras.losses.Loss]] = {"centred": Centred, "studentised": Studentised}
