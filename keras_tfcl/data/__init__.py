"""Batches of views, and sources of images."""

from keras_tfcl.data.balanced_batches import balanced_batches
from keras_tfcl.data.image_views import image_batches, image_views
from keras_tfcl.data.images import ImageData, load_images
from keras_tfcl.data.views import ViewPipeline

__all__ = ["ImageData", "ViewPipeline", "balanced_batches", "image_batches", "image_views", "load_images"]
