"""Pure functions that evaluate embeddings; metrics, callbacks and diagnostics are built on them."""

from keras_tfcl.evaluation.diagnosis import Diagnosis, diagnose
from keras_tfcl.evaluation.embedding import embed, embed_views, make_views
from keras_tfcl.evaluation.geometry import (
    alignment,
    contrastive_accuracy,
    effective_rank,
    gaussian_potential,
    tolerance,
    uniform_sphere,
    uniformity,
)
from keras_tfcl.evaluation.health import Health, embedding_health
from keras_tfcl.evaluation.linear_probe import linear_accuracy
from keras_tfcl.evaluation.neighbours import knn_accuracy, nearest_neighbours
from keras_tfcl.evaluation.pairs import WeightedMean
from keras_tfcl.evaluation.ranking import pair_correlation, retrieval

__all__ = [
    "Diagnosis",
    "Health",
    "WeightedMean",
    "alignment",
    "contrastive_accuracy",
    "diagnose",
    "effective_rank",
    "embed",
    "embed_views",
    "embedding_health",
    "gaussian_potential",
    "knn_accuracy",
    "linear_accuracy",
    "make_views",
    "nearest_neighbours",
    "pair_correlation",
    "retrieval",
    "tolerance",
    "uniform_sphere",
    "uniformity",
]
