"""Layers of contrastive learning: the projection head and random image views."""

from keras_tfcl.layers.batch_norm import recalibrate_batch_norm, set_batch_norm_momentum
from keras_tfcl.layers.image_augmenter import ImageAugmenter
from keras_tfcl.layers.image_recipes import image_augmenter
from keras_tfcl.layers.projection_head import ProjectionHead
from keras_tfcl.layers.random_color_jitter import RandomColorJitter
from keras_tfcl.layers.random_gaussian_blur import RandomGaussianBlur
from keras_tfcl.layers.random_resized_crop import RandomResizedCrop

__all__ = [
    "ImageAugmenter",
    "ProjectionHead",
    "RandomColorJitter",
    "RandomGaussianBlur",
    "RandomResizedCrop",
    "image_augmenter",
    "recalibrate_batch_norm",
    "set_batch_norm_momentum",
]
