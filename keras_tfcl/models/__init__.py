"""The model that trains an encoder."""

from keras_tfcl.models.contrastive_model import ContrastiveModel

__all__ = ["ContrastiveModel"]
