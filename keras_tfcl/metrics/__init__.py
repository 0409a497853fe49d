"""Streaming metrics of embeddings, which they L2-normalise."""

from keras_tfcl.metrics.alignment import Alignment
from keras_tfcl.metrics.contrastive_accuracy import ContrastiveAccuracy
from keras_tfcl.metrics.effective_rank import EffectiveRank
from keras_tfcl.metrics.tolerance import Tolerance
from keras_tfcl.metrics.uniformity import Uniformity

__all__ = ["Alignment", "ContrastiveAccuracy", "EffectiveRank", "Tolerance", "Uniformity"]
