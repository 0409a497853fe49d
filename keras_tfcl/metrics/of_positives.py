"""The metrics of positive pairs."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tfcl.ops.pair_rule import PairRule
from keras_tfcl.typing import Config, Metrics, Tensor, TensorLike


class MeanOfPositives(keras.metrics.Mean):
    """A mean over pairs or anchors, which compares what a loss compares.

    Args:
        name, dtype: of `keras.metrics.Mean`.
        rule: the `rule` of a loss. None: the rule of the model's loss in a `ContrastiveModel`; elsewhere all embeddings
            are compared with all others, as by a loss without arguments.
    """

    def __init__(
        self, name: str, dtype: str | keras.dtype_policies.DTypePolicy | None, rule: PairRule | dict[str, Any] | None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.given = keras.saving.deserialize_keras_object(rule) if isinstance(rule, dict) else rule
        self.rule: PairRule | None = self.given

    def follow(self, rule: PairRule | None) -> None:
        """Takes over the rule of a model's loss, unless the metric was given one of its own."""
        self.rule = self.given or rule

    def get_config(self) -> Config:
        rule = None if self.given is None else keras.saving.serialize_keras_object(self.given)
        return {**super().get_config(), "rule": rule}


@keras.saving.register_keras_serializable(package="keras_tfcl")
class OfRows(keras.Metric):
    """Gives a metric the row numbers as labels, as a loss without labels has them. It is saved as the metric itself.

    Args:
        metric: the metric, whose state and name it shares.
    """

    def __init__(self, metric: MeanOfPositives) -> None:
        super().__init__(name=metric.name, dtype=metric.dtype)
        self.metric = metric

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None) -> None:
        self.metric.update_state(ops.arange(ops.shape(y_pred)[0], dtype="int32"), y_pred, sample_weight)

    def result(self) -> Tensor:
        return self.metric.result()

    def get_config(self) -> Config:
        return {"metric": keras.saving.serialize_keras_object(self.metric)}

    @classmethod
    def from_config(cls, config: Config) -> MeanOfPositives:
        return keras.saving.deserialize_keras_object(config["metric"])


def following(loss: keras.losses.Loss, metrics: Metrics | None, supervised: bool) -> list[keras.Metric]:
    """The metrics of a model in one list, of which those of positives compare what its loss compares.

    Args:
        loss: of the model.
        metrics: as `compile` takes them.
        supervised: whether the labels in y decide who is positive. Otherwise the rows of the batch do.
    """
    flat = keras.tree.flatten(metrics or [])
    for metric in flat:
        if isinstance(metric, MeanOfPositives):
            metric.follow(getattr(loss, "rule", None))
    return [OfRows(m) if isinstance(m, MeanOfPositives) and not supervised else m for m in flat]
