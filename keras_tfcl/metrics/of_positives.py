"""The metrics of positive pairs."""

from __future__ import annotations

from typing import Any

import keras

from keras_tfcl.ops.pair_rule import PairRule
from keras_tfcl.typing import Config, DType


class MeanOfPositives(keras.metrics.Mean):
    """A mean over pairs or anchors, which compares what a loss compares.

    Args:
        name, dtype: of `keras.metrics.Mean`.
        rule: the `rule` of a loss. None: the rule of the model's loss in a `ContrastiveModel`; elsewhere all embeddings
            are compared with all others, as by a loss without arguments.
    """

    def __init__(self, name: str, dtype: DType | None, rule: PairRule | dict[str, Any] | None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.given = keras.saving.deserialize_keras_object(rule) if isinstance(rule, dict) else rule
        self.rule: PairRule | None = self.given

    def follow(self, rule: PairRule | None) -> None:
        """Takes over the rule of a model's loss, unless the metric was given one of its own."""
        self.rule = self.given or rule

    def get_config(self) -> Config:
        rule = None if self.given is None else keras.saving.serialize_keras_object(self.given)
        return {**super().get_config(), "rule": rule}
