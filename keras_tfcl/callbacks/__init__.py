"""Callbacks that judge embeddings, or steer or guard their loss, while they are trained."""

from keras_tfcl.callbacks.collapse_monitor import CollapseMonitor, CollapseWarning
from keras_tfcl.callbacks.embedding_images import EmbeddingImages
from keras_tfcl.callbacks.embedding_projector import EmbeddingProjector
from keras_tfcl.callbacks.faults import Fault, find_faults
from keras_tfcl.callbacks.health import Health, embedding_health
from keras_tfcl.callbacks.knn_evaluation import KNNEvaluation, knn_accuracy
from keras_tfcl.callbacks.linear_probe import LinearProbe, linear_accuracy
from keras_tfcl.callbacks.stop_on_non_finite import StopOnNonFinite
from keras_tfcl.callbacks.temperature_schedule import TemperatureSchedule, cosine_temperature

__all__ = [
    "CollapseMonitor",
    "CollapseWarning",
    "EmbeddingImages",
    "EmbeddingProjector",
    "Fault",
    "Health",
    "KNNEvaluation",
    "LinearProbe",
    "StopOnNonFinite",
    "TemperatureSchedule",
    "cosine_temperature",
    "embedding_health",
    "find_faults",
    "knn_accuracy",
    "linear_accuracy",
]
