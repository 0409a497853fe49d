from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from keras_tfcl.negatives.negatives import Negatives
from keras_tfcl.negatives.resolve import get
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class WithoutNearDuplicates(Negatives):
    """Leaves out negatives that are nearly the same as the anchor: probably they are false negatives.

    A negative counts only if its cosine is below `1 - margin`; among those that are left, `negatives` chooses or
    weighs as it would without the guard, so `HardNegatives(top_k=64)` keeps the 64 hardest of them. Off unless you ask
    for it: early in training, or after a collapse, embeddings are alike without being duplicates, and the guard would
    take their repulsion away. Candidates with the anchor's own label never are negatives, guard or not.

    Args:
        margin: number in (0, 2). Defaults to 0.05: cosines of 0.95 and more are left out.
        negatives: what is applied to the rest: `"all"` or a `Negatives`. Defaults to `"all"`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> hard = keras_tfcl.WithoutNearDuplicates(0.05, keras_tfcl.HardNegatives(alpha=0.1))
    >>> loss = keras_tfcl.ContrastiveLoss("arctanh", negatives=hard)
    """

    def __init__(self, margin: float = 0.05, negatives: str | Negatives = "all") -> None:
        self.margin = positive_number("margin", margin, "0.05 leaves out cosines of 0.95 and more.")
        if self.margin >= 2:
            raise ValueError(f"`margin` must be a number in (0, 2). Received: margin={margin!r}. Use 0.05.")
        self.negatives = get(negatives)

    def allows(self, similarity: Tensor) -> Tensor:
        far = similarity < 1.0 - self.margin
        return far if self.negatives.allows is None else ops.logical_and(far, self.negatives.allows(similarity))

    @property
    def hardest(self) -> Callable[[Tensor], Tensor] | None:  # type: ignore[override]  # a constant of the class
        return self.negatives.hardest

    @property
    def powers(self) -> tuple[tuple[float, float], ...]:  # type: ignore[override]  # a constant of the class
        return self.negatives.powers

    @property
    def whole_rows(self) -> bool:  # type: ignore[override]  # a constant of the class
        return self.negatives.whole_rows

    @property
    def weighs(self) -> bool:  # type: ignore[override]  # a constant of the class
        return self.negatives.weighs

    def from_log_sums(self, log_sums: list[Tensor], log_positive: Tensor, log_count: Tensor, lowest: Tensor) -> Tensor:
        return self.negatives.from_log_sums(log_sums, log_positive, log_count, lowest)

    def keep(self, similarity: Tensor, mask: Tensor) -> Tensor:
        return self.negatives.keep(similarity, ops.logical_and(mask, similarity < 1.0 - self.margin))

    def log_sum(self, logits: Tensor, pairs: Pairs, lowest: Tensor) -> Tensor:
        return self.negatives.log_sum(logits, pairs, lowest)

    def get_config(self) -> Config:
        return {"margin": self.margin, "negatives": keras.saving.serialize_keras_object(self.negatives)}
