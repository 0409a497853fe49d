"""Contrastive representation learning for Keras 3 and TensorFlow, from the loss to a verified ONNX encoder.

Importing the package registers every class with Keras, so that saved models load; Keras itself imports no package but
its own. Without TensorFlow only `keras_tfcl.export` works: serving needs nothing but NumPy and onnxruntime.
"""

import importlib
from typing import Any

from keras_tfcl.availability import (
    ExplainMissingTensorFlow,
    explain_missing_tensorflow,
    loads_on_demand,
    require_tensorflow_backend,
    tensorflow_is_installed,
)

__version__ = "0.2.0"
__all__ = [
    "Alignment",
    "AngularMargin",
    "Arctanh",
    "ArctanhInfoNCE",
    "CoSENTLoss",
    "CollapseMonitor",
    "ContrastiveAccuracy",
    "ContrastiveLoss",
    "ContrastiveModel",
    "CosineMargin",
    "DecoupledInfoNCE",
    "DynamicTemperature",
    "EffectiveRank",
    "HardNegativeInfoNCE",
    "HardNegatives",
    "ImageAugmenter",
    "InfoNCE",
    "KNNEvaluation",
    "LearnableTemperature",
    "LinearProbe",
    "Negatives",
    "PairContrastiveLoss",
    "ProjectionHead",
    "RetrievalEvaluation",
    "ReweightedNegatives",
    "SamplingProbability",
    "Scaling",
    "ScheduledTemperature",
    "SigmoidContrastiveLoss",
    "SimpleContrastiveLoss",
    "StopOnNonFinite",
    "Temperature",
    "TemperatureSchedule",
    "Tolerance",
    "Uniformity",
    "WithoutNearDuplicates",
    "callbacks",
    "data",
    "diagnostics",
    "evaluation",
    "layers",
    "losses",
    "metrics",
    "models",
    "negatives",
    "ops",
    "scaling",
]

if tensorflow_is_installed() and not loads_on_demand():
    require_tensorflow_backend()
    from keras_tfcl import (
        callbacks,
        data,
        diagnostics,
        evaluation,
        layers,
        losses,
        metrics,
        models,
        negatives,
        ops,
        scaling,
    )
    from keras_tfcl.callbacks import (
        CollapseMonitor,
        KNNEvaluation,
        LinearProbe,
        RetrievalEvaluation,
        StopOnNonFinite,
        TemperatureSchedule,
    )
    from keras_tfcl.layers import ImageAugmenter, ProjectionHead
    from keras_tfcl.losses import (
        ArctanhInfoNCE,
        ContrastiveLoss,
        CoSENTLoss,
        DecoupledInfoNCE,
        HardNegativeInfoNCE,
        InfoNCE,
        PairContrastiveLoss,
        SigmoidContrastiveLoss,
        SimpleContrastiveLoss,
    )
    from keras_tfcl.metrics import Alignment, ContrastiveAccuracy, EffectiveRank, Tolerance, Uniformity
    from keras_tfcl.models import ContrastiveModel, SamplingProbability
    from keras_tfcl.negatives import HardNegatives, Negatives, ReweightedNegatives, WithoutNearDuplicates
    from keras_tfcl.scaling import (
        AngularMargin,
        Arctanh,
        CosineMargin,
        DynamicTemperature,
        LearnableTemperature,
        Scaling,
        ScheduledTemperature,
        Temperature,
    )
elif not tensorflow_is_installed():
    ExplainMissingTensorFlow.install()


def __getattr__(name: str) -> Any:
    """Imports `keras_tfcl.export` and `keras_tfcl.testing`, which most programs do not need, when they are used."""
    if name in ("export", "testing"):
        return importlib.import_module(f"keras_tfcl.{name}")
    if name in __all__ and not tensorflow_is_installed():
        raise explain_missing_tensorflow(f"keras_tfcl.{name}")
    raise AttributeError(f"module 'keras_tfcl' has no attribute {name!r}")
