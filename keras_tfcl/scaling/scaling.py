"""The interface of a scaling: how a cosine becomes a logit."""

from __future__ import annotations

from typing import Any


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
    """

    def __call__(self, similarity: Any) -> Any:
        """Returns the logits of `similarity`, a tensor of cosines; same shape, same dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(similarity)` and return logits.")

    def tile_form(self) -> Any:
        """Returns the scaling as `keras_tfcl.ops.tiled` knows it; None, the default, has all pairs computed at once."""
        return None

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scaling:
        """Builds the scaling from `get_config()`'s dictionary."""
        return cls(**config)
