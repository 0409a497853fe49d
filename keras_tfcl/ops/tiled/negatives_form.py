"""The choices of negatives as the tiles need them."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from keras_tfcl.ops.tiled.tiles import Term


class NegativesForm(NamedTuple):
    """Which negatives count, and how; the defaults are `"all"`. See `HardNegatives` and `ReweightedNegatives`."""

    alpha: float | None = None
    top_k: int | None = None
    beta: float = 0.0
    tau_plus: float = 0.0
    detach: bool = False

    @property
    def hard(self) -> bool:
        return self.alpha is not None or self.top_k is not None

    @property
    def terms(self) -> tuple[Term, ...]:
        """The sums over negatives; with weights `exp(beta * logit)`, their numerator and their denominator."""
        if self.beta == 0:
            return (Term(1.0, 1.0),)
        if self.detach:
            return Term(1.0 + self.beta, 1.0), Term(self.beta, 0.0)
        return Term(1.0 + self.beta, 1.0 + self.beta), Term(self.beta, self.beta)

    def kept(self, negatives: Any) -> Any:
        """How many of each anchor's negatives, int32 `(N,)`, hard negatives keep."""
        if self.top_k is not None:
            return tf.minimum(self.top_k, negatives)
        return tf.cast(tf.math.ceil(self.alpha * tf.cast(negatives, "float64")), "int32")
