"""The interface of a choice of negatives: which of them enter an anchor's denominator."""

from __future__ import annotations

from typing import Any

import keras

from keras_tfcl.ops.logsumexp import masked_logsumexp
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.ops.tiled import NegativesForm


@keras.saving.register_keras_serializable(package="keras_tfcl")
class Negatives:
    """Base class of choices of negatives, and the choice `"all"`: keeps every negative.

    Subclass it and override `keep` to choose among the negatives, or `log_sum` to weigh them. Register the class with
    Keras, so that a saved model can be loaded again, and return every constructor argument from `get_config`:

    >>> @keras.saving.register_keras_serializable(package="docs")
    ... class NotTooSimilar(keras_tfcl.Negatives):
    ...     def __init__(self, limit=0.95):
    ...         self.limit = limit
    ...
    ...     def keep(self, similarity, mask):
    ...         return mask & (similarity < self.limit)
    ...
    ...     def get_config(self):
    ...         return {"limit": self.limit}
    >>> loss = keras_tfcl.ContrastiveLoss(0.1, negatives=NotTooSimilar())
    """

    def keep(self, similarity: Any, mask: Any) -> Any:
        """Chooses the negatives that count.

        Args:
            similarity: cosines `(A, C)` of anchors and candidates; no gradient flows through the choice.
            mask: bool `(A, C)`, True where the candidate is a negative of the anchor.

        Returns:
            bool `(A, C)`, True nowhere that `mask` is not.
        """
        return mask

    def log_sum(self, logits: Any, pairs: Pairs, lowest: Any) -> Any:
        """Log of what the chosen negatives add to the denominator; override it to weigh them.

        Args:
            logits: `(A, C)`; the gradient flows through them.
            pairs: the positives and the kept negatives, bool `(A, C)` each.
            lowest: scalar, the logit at cosine -1.

        Returns:
            `(A,)`; what it holds for an anchor without negatives does not matter.
        """
        return masked_logsumexp(logits, pairs.negative)

    def tile_form(self) -> NegativesForm | None:
        """Returns the choice as `keras_tfcl.ops.tiled` knows it; not asked of a class with a `keep` of its own."""
        return NegativesForm()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Negatives:
        """Builds the choice from `get_config()`'s dictionary."""
        return cls(**config)
