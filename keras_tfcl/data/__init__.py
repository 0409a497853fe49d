"""Batches of views, and images to train on."""

from keras_tfcl.data.images import ImageData, load_images
from keras_tfcl.data.views import ViewPipeline

__all__ = ["ImageData", "ViewPipeline", "load_images"]
