"""The interface of a scaling, a function from cosine to logit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_tfcl.ops.held import variables_of
from keras_tfcl.ops.pairwise.logits import sampled_range
from keras_tfcl.typing import Config, Tensor


class Scaling:
    """Base class of scalings, which turn cosine similarities into logits.

    A scaling is an elementwise, increasing function of the cosine. Subclass it, register it with Keras so that a saved
    model can be loaded again, and return every constructor argument from `get_config`:

    >>> @keras.saving.register_keras_serializable(package="docs")
    ... class Cubic(keras_tfcl.Scaling):
    ...     def __init__(self, strength=5.0):
    ...         self.strength = strength
    ...
    ...     def __call__(self, similarity):
    ...         return self.strength * (similarity + similarity**3)
    ...
    ...     def get_config(self):
    ...         return {"strength": self.strength}
    >>> loss = keras_tfcl.ContrastiveLoss(Cubic())

    Automatic differentiation finds its derivative, in the dense form and in tiles. Keras variables and layers that it
    holds as attributes are trained with the model.

    A scaling does not see labels: it is the same function of the cosine for every pair. Only `positive_cosine` treats
    positives differently from negatives. Define a `Negatives` to choose or weigh negatives by their similarity, and an
    `EmbeddingLoss` for anything else.

    Attributes:
        positive_cosine: `positive_cosine(similarity)`, elementwise on cosines of any shape: the cosine that takes the
            place of a positive's, such as `s - margin`. None: positives keep theirs.
        linear: whether the logit is a factor, not 0, times the cosine, whatever the values of its variables. The kernel
            then finds the gradient by the factor faster. Losses check it once, with the values of that moment.
    """

    positive_cosine: Callable[[Tensor], Tensor] | None = None
    linear: bool = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        # A class that redefines the logits, or mixes in one that does, must not inherit what was made for other logits.
        super().__init_subclass__(**kwargs)

        def first(*names: str) -> int:
            return next(i for i, base in enumerate(cls.__mro__) if any(name in vars(base) for name in names))

        for name in ("exp", "logit_range", "linear"):
            if first("__call__", "call") < first(name):
                setattr(cls, name, vars(Scaling)[name])

    def __call__(self, similarity: Tensor) -> Tensor:
        """Returns the logits of `similarity`, a tensor of cosines; same shape, same dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(similarity)` and return logits.")

    def exp(self, similarity: Tensor, power: float, shift: float) -> Tensor:
        """Returns `exp(power * logit + shift)`; override it if it can be computed without an exponential."""
        return ops.exp(power * self(similarity) + shift)

    def logit_range(self) -> tuple[float, float]:
        """Returns the lowest and the highest logit, from -inf to inf if they may change while training.

        The tiles compute one exponential for a pair if the range is at most 112 wide, and two if it is wider.
        """
        if variables_of(self):
            return -math.inf, math.inf
        lowest, highest = sampled_range(self)
        if self.positive_cosine is None:
            return lowest, highest
        shifted = self.positive_cosine
        positive = sampled_range(lambda similarity: self(shifted(similarity)))
        return min(lowest, positive[0]), max(highest, positive[1])

    def get_config(self) -> Config:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scaling:
        """Builds the scaling from `get_config()`'s dictionary."""
        return cls(**config)
