"""Embeddings over HTTP, on the runtime alone: no TensorFlow."""

from keras_tfcl.export.server.app import create_app
from keras_tfcl.export.server.run import serve
from keras_tfcl.export.server.settings import ServerSettings

__all__ = ["ServerSettings", "create_app", "serve"]
