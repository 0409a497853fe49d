"""Callbacks that evaluate embeddings during training, or control or check the loss."""

from keras_tfcl.callbacks.collapse_monitor import CollapseMonitor, CollapseWarning
from keras_tfcl.callbacks.embedding_images import EmbeddingImages
from keras_tfcl.callbacks.embedding_projector import EmbeddingProjector
from keras_tfcl.callbacks.knn_evaluation import KNNEvaluation
from keras_tfcl.callbacks.linear_probe import LinearProbe
from keras_tfcl.callbacks.retrieval_evaluation import RetrievalEvaluation
from keras_tfcl.callbacks.stop_on_non_finite import StopOnNonFinite
from keras_tfcl.callbacks.temperature_schedule import TemperatureSchedule, cosine_temperature

__all__ = [
    "CollapseMonitor",
    "CollapseWarning",
    "EmbeddingImages",
    "EmbeddingProjector",
    "KNNEvaluation",
    "LinearProbe",
    "RetrievalEvaluation",
    "StopOnNonFinite",
    "TemperatureSchedule",
    "cosine_temperature",
]
