from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import keras
from keras import ops

from keras_tfcl.losses import EmbeddingLoss, ScoredPairLoss
from keras_tfcl.models.memory import InBatch, Memory
from keras_tfcl.typing import Structure, Tensor, TensorLike

KEYS = {"labels", "sampling_probability"}
LEAST = 1e-6  # of a sampling probability, as in TensorFlow Recommenders: its logarithm is finite


class Targets(NamedTuple):
    """The labels in y, and the probability with which each sample is drawn into a batch. Either may be None."""

    labels: TensorLike | None
    sampling_probability: TensorLike | None = None

    @property
    def log_probability(self) -> Tensor:
        """float32 `(B,)`."""
        return ops.log(ops.maximum(ops.reshape(ops.cast(self.sampling_probability, "float32"), (-1,)), LEAST))


def targets_of(y: Structure | None) -> Targets:
    """Splits y, which is labels, or a dictionary of `"labels"` and `"sampling_probability"`.

    Raises:
        ValueError: for a dictionary with other keys.
    """
    if not isinstance(y, Mapping) or "sampling_probability" not in y:
        return Targets(y)
    if not set(y) <= KEYS:
        raise ValueError(
            "`y` must be labels, or a dictionary with 'sampling_probability' and perhaps 'labels'. Received: a "
            f"dictionary of {sorted(map(str, y))}. Pass y={{'labels': ..., 'sampling_probability': ...}}."
        )
    return Targets(y.get("labels"), y["sampling_probability"])


def check_correction(loss: keras.losses.Loss, memory: Memory) -> None:
    """Raises ValueError where sampling probabilities cannot be taken into account."""
    if not isinstance(memory, InBatch):
        raise ValueError(
            "Sampling probabilities correct for negatives of the batch. Received: sampling probabilities with "
            "`momentum`, whose queue or bank holds embeddings of other batches. Leave out momentum."
        )
    if not isinstance(loss, EmbeddingLoss):
        raise ValueError(
            "Sampling probabilities need a loss with candidates, a keras_tfcl.losses.EmbeddingLoss. Received: "
            f"{type(loss).__name__}. Use for example InfoNCE."
        )


def check_rule(loss: keras.losses.Loss, supervised: bool) -> None:
    """Raises ValueError for a loss of class labels or scores in a model that gives it row numbers."""
    if not supervised and isinstance(loss, ScoredPairLoss):
        raise ValueError(
            f"{type(loss).__name__} needs the scores of pairs in y, but with supervised=False the loss gets row "
            "numbers. Received: such a loss for a model that is not supervised. Pass supervised=True."
        )
    if not supervised and isinstance(loss, EmbeddingLoss) and loss.rule.needs_labels:
        raise ValueError(
            f"`{loss.rule.needs_labels[0]}` of the loss refers to the labels in y, but with supervised=False the "
            "loss gets row numbers. Received: such a loss for a model that is not supervised. Pass supervised=True."
        )
