"""Callbacks that judge embeddings, or steer or guard their loss, while they are trained."""

from keras_tfcl.callbacks.knn_evaluation import KNNEvaluation, knn_accuracy
from keras_tfcl.callbacks.stop_on_non_finite import StopOnNonFinite
from keras_tfcl.callbacks.temperature_schedule import TemperatureSchedule, cosine_temperature

__all__ = ["KNNEvaluation", "StopOnNonFinite", "TemperatureSchedule", "cosine_temperature", "knn_accuracy"]
