"""The interface of a choice of negatives, which enter the denominator of an anchor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import keras

from keras_tfcl.ops.hard import keep_nearest
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.ops.reweighted import powered_log_sum
from keras_tfcl.typing import Config, Tensor


@keras.saving.register_keras_serializable(package="keras_tfcl")
class Negatives:
    """Base class of choices of negatives; by itself it is the choice `"all"`, which keeps every negative.

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

    Both methods see all candidates of an anchor, and large batches are computed for a part of the anchors at a time. A
    choice that needs less is faster, because it is computed in tiles: define `allows` (pair by pair) or `hardest` (by
    rank) instead of `keep`, and `powers` with `from_log_sums` instead of `log_sum`.

    Attributes:
        allows: `allows(similarity)`, elementwise on cosines of any shape: the negatives that may be kept. None: all.
        hardest: `hardest(count)`, int32 to int32: how many of the `count` nearest negatives are kept, one at least.
            None: all.
        powers: the sums over negatives that `from_log_sums` is given: `(power, slope)` of each, `exp(power * logit)`
            with the gradient of `exp(slope * logit)`.
        whole_rows: whether `keep` or `log_sum` must see all candidates of an anchor. True for a subclass that overrides
            one of them.
        weighs: whether negatives are weighed, and not only chosen. Set by a subclass that overrides `log_sum`.
    """

    allows: Callable[[Tensor], Tensor] | None = None
    hardest: Callable[[Tensor], Tensor] | None = None
    powers: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    whole_rows: ClassVar[bool] = False
    weighs: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "whole_rows" not in own and ("keep" in own or "log_sum" in own):
            cls.whole_rows = True
        if "weighs" not in own and ("log_sum" in own or "from_log_sums" in own):
            cls.weighs = True

    def keep(self, similarity: Tensor, mask: Tensor) -> Tensor:
        """Chooses the negatives to keep.

        Args:
            similarity: cosines `(A, C)` of anchors and candidates; no gradient flows through the choice.
            mask: bool `(A, C)`, True where the candidate is a negative of the anchor.

        Returns:
            bool `(A, C)`; where `mask` is False it does not count.
        """
        if self.allows is not None:
            mask = keras.ops.logical_and(mask, self.allows(similarity))
        return mask if self.hardest is None else keep_nearest(similarity, mask, self.hardest)

    def log_sum(self, logits: Tensor, pairs: Pairs, lowest: Tensor) -> Tensor:
        """Computes the log of the term of the chosen negatives in the denominator; override it to weight them.

        Args:
            logits: `(A, C)`; the gradient flows through them.
            pairs: the positives and the kept negatives, bool `(A, C)` each.
            lowest: scalar, the logit at cosine -1.

        Returns:
            `(A,)`. The value for anchors without negatives is ignored.
        """
        return powered_log_sum(logits, pairs, lowest, self.powers, self.from_log_sums)

    def from_log_sums(self, log_sums: list[Tensor], log_positive: Tensor, log_count: Tensor, lowest: Tensor) -> Tensor:
        """Computes the same from sums; override it to weight the negatives by powers of their exponentials.

        Args:
            log_sums: `(A,)` of each of `powers`: `log(sum over the kept negatives of exp(power * logit))`.
            log_positive: `(A,)`, log of the mean of the positives' exponentials.
            log_count: `(A,)`, log of the number of kept negatives.
            lowest: scalar, the logit at cosine -1.

        Returns:
            `(A,)`.
        """
        return log_sums[0]

    def get_config(self) -> Config:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Negatives:
        """Builds the choice from `get_config()`'s dictionary."""
        return cls(**config)
