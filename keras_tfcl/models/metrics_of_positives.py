"""Makes the metrics of positives, such as `Alignment`, compare what the loss of their model compares."""

from __future__ import annotations

import keras
from keras import ops

from keras_tfcl.typing import Config, Metrics, Tensor, TensorLike


@keras.saving.register_keras_serializable(package="keras_tfcl")
class OfRows(keras.Metric):
    """Gives a metric the row numbers as labels, as a loss without labels has them. It is saved as the metric itself.

    Args:
        metric: the metric, whose state and name it shares.
    """

    def __init__(self, metric: keras.Metric) -> None:
        super().__init__(name=metric.name, dtype=metric.dtype)
        self.metric = metric

    def update_state(self, y_true: TensorLike, y_pred: TensorLike, sample_weight: TensorLike | None = None) -> None:
        self.metric.update_state(ops.arange(ops.shape(y_pred)[0], dtype="int32"), y_pred, sample_weight)

    def result(self) -> Tensor:
        return self.metric.result()

    def get_config(self) -> Config:
        return {"metric": keras.saving.serialize_keras_object(self.metric)}

    @classmethod
    def from_config(cls, config: Config) -> keras.Metric:
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
        if hasattr(metric, "follow"):
            metric.follow(getattr(loss, "rule", None))
    return [OfRows(metric) if hasattr(metric, "follow") and not supervised else metric for metric in flat]
