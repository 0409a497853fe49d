"""The model that trains an encoder, and embeddings as its loss sees them."""

from keras_tfcl.models.backbone import build_backbone
from keras_tfcl.models.contrastive_model import ContrastiveModel
from keras_tfcl.models.embedding import embed_instances, embed_views, make_views

__all__ = ["ContrastiveModel", "build_backbone", "embed_instances", "embed_views", "make_views"]
