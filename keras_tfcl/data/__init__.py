"""Batches of views, and images to train on."""

from keras_tfcl.data.views import ViewPipeline

__all__ = ["ViewPipeline"]
