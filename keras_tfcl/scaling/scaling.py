"""The interface of a scaling: how a cosine becomes a logit."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_tfcl.ops.held import variables_of
from keras_tfcl.ops.pairwise.logits import sampled_range
from keras_tfcl.typing import Config, Tensor


class Scaling:
    """Base class of scalings: turns cosine similarities into logits.

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

    That is all: its derivative is found by automatic differentiation, in the dense form and in tiles alike. Keras
    variables and layers that it holds as attributes are trained with the model.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        # A class that redefines the logits must not inherit what was made for other logits.
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "__call__" in own or "call" in own:
            for name in ("exp", "logit_range"):
                if name not in own:
                    setattr(cls, name, vars(Scaling)[name])

    def __call__(self, similarity: Tensor) -> Tensor:
        """Returns the logits of `similarity`, a tensor of cosines; same shape, same dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(similarity)` and return logits.")

    def exp(self, similarity: Tensor, power: float, shift: float) -> Tensor:
        """Returns `exp(power * logit + shift)`; override it where that is had without an exponential."""
        return ops.exp(power * self(similarity) + shift)

    def logit_range(self) -> tuple[float, float]:
        """Returns the lowest and the highest logit, from -inf to inf if they may change while training.

        The tiles use one exponential a pair where the range is at most 112 wide, and two where it is wider.
        """
        return (-math.inf, math.inf) if variables_of(self) else sampled_range(self)

    def get_config(self) -> Config:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scaling:
        """Builds the scaling from `get_config()`'s dictionary."""
        return cls(**config)
