"""Callbacks that judge embeddings, or steer their loss, while they are trained."""

from keras_tfcl.callbacks.knn_evaluation import KNNEvaluation, knn_accuracy
from keras_tfcl.callbacks.temperature_schedule import TemperatureSchedule, cosine_temperature

__all__ = ["KNNEvaluation", "TemperatureSchedule", "cosine_temperature", "knn_accuracy"]
