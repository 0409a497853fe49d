"""What `ContrastiveModel.compile` makes of its arguments."""

from __future__ import annotations

from typing import Any

import keras


def split_metrics(metrics: Any) -> tuple[list[Any], list[Any]]:
    """Metrics of the loss's positives, and others."""
    metrics = keras.tree.flatten(metrics or [])
    by_label = [metric for metric in metrics if getattr(metric, "positives_by_label", False)]
    return by_label, [metric for metric in metrics if metric not in by_label]


def scaled_optimizer(optimizer: Any) -> Any:
    """The optimizer, with dynamic loss scaling."""
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return optimizer if scales else keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
