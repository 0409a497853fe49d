"""Callbacks that judge embeddings while they are trained."""

from keras_tfcl.callbacks.knn_evaluation import KNNEvaluation, knn_accuracy

__all__ = ["KNNEvaluation", "knn_accuracy"]
