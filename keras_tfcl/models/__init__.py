"""The model that trains an encoder."""

from keras_tfcl.models.backbone import build_backbone
from keras_tfcl.models.contrastive_model import ContrastiveModel

__all__ = ["ContrastiveModel", "build_backbone"]
