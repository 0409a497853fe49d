"""Exports the function that `predict` computes as a TensorFlow SavedModel or another format of Keras' `export`."""

from __future__ import annotations

import os
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.models.towers import Towers, inputs_of
from keras_tfcl.ops.similarity import l2_normalize
from keras_tfcl.typing import Structure

LARGEST_GRAPH = 2**30  # bytes of weights; TensorFlow reads graphs below 2 GiB


def serving_model(towers: Towers) -> keras.Model:
    """A functional model that computes what `predict` computes: L2-normalised features, or a list of them.

    Raises:
        ValueError: if an encoder does not know its inputs.
    """
    unit = keras.layers.Lambda(l2_normalize, dtype="float32", output_shape=lambda shape: shape)
    # New inputs, because one encoder may serve two views, which then cannot have the same names.
    like = partial(_input_like, named=len(towers.encoders) == 1)
    inputs = [keras.tree.map_structure(like, inputs_of(encoder, "`export`")) for encoder in towers.encoders]
    features = [unit(encoder(x)) for encoder, x in zip(towers.encoders, inputs, strict=True)]
    return keras.Model(inputs[0], features[0]) if len(inputs) == 1 else keras.Model(inputs, features)


def export(model: keras.Model, filepath: str | os.PathLike[str], format: str, **kwargs: object) -> None:
    """Writes a functional model as `keras.Model.export` does.

    The weights of a SavedModel, up to 1 GiB, are constants of its graph, so that one file holds the whole function.

    Args:
        model: functional model.
        filepath: where to.
        format: of `keras.Model.export`.
        **kwargs: of `keras.Model.export`.
    """
    size = sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in model.variables)
    if format != "tf_saved_model" or size > LARGEST_GRAPH:
        model.export(filepath, format, **kwargs)
        return
    weights = [(variable, keras.ops.convert_to_numpy(variable)) for variable in model.variables]

    def serve(inputs: Structure) -> Structure:
        with keras.StatelessScope([(variable, tf.constant(value)) for variable, value in weights]):
            return model(inputs, training=False)

    signature = kwargs.pop("input_signature", None) or [keras.tree.map_structure(_spec, model.input)]
    archive = keras.export.ExportArchive()
    archive.track(model)  # for lookup tables
    archive.add_endpoint("serve", serve, signature, **{k: v for k, v in kwargs.items() if k != "verbose"})
    archive.write_out(filepath, verbose=kwargs.get("verbose", True))


def _input_like(x: keras.KerasTensor, named: bool) -> keras.KerasTensor:
    return keras.Input(batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse, name=x.name if named else None)


def _spec(x: keras.KerasTensor) -> tf.TensorSpec:
    return tf.TensorSpec(x.shape, x.dtype, x.name)
