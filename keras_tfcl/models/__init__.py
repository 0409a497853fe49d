"""The model that trains an encoder."""

from keras_tfcl.models.backbone import build_backbone
from keras_tfcl.models.contrastive_model import ContrastiveModel
from keras_tfcl.models.sampling_probability import SamplingProbability

__all__ = ["ContrastiveModel", "SamplingProbability", "build_backbone"]
