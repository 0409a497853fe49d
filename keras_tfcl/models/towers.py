"""Encoders with their projectors: samples to features, views to projections."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import keras
from keras import ops

from keras_tfcl._keras_compat import nested_layers
from keras_tfcl.models.checks import check_output, check_tuple, check_widths
from keras_tfcl.models.gradient_cache import encode_in_slices
from keras_tfcl.ops.similarity import l2_normalize
from keras_tfcl.typing import Structure, Tensor


class Towers:
    """One encoder and projector for all views, or one pair for each view.

    It holds no state, because `ContrastiveModel` tracks and saves the layers.

    Args:
        encoder: Keras model, or a tuple of models, one for each view.
        projector: layer, a tuple of as many layers, or None.
        slice_size: largest number of samples that an encoder sees at a time in training, or None.
    """

    def __init__(
        self,
        encoder: keras.Model | tuple[keras.Model, ...],
        projector: keras.Layer | tuple[keras.Layer, ...] | None,
        slice_size: int | None = None,
    ) -> None:
        self.encoders = encoder if isinstance(encoder, tuple) else (encoder,)
        self.projectors = projector if isinstance(projector, tuple) else (projector,) * len(self.encoders)
        self.slice_size = slice_size

    def build(self) -> bool:
        """Builds what can be built before the first batch, and returns whether everything is built."""
        return all([_build(*branch) for branch in zip(self.encoders, self.projectors, strict=True)])

    @property
    def built(self) -> bool:
        """Whether encoders and projectors have their weights."""
        return all(part is None or part.built for part in (*self.encoders, *self.projectors))

    @property
    def synchronized(self) -> bool:
        """Whether batch normalisation uses the statistics of all replicas."""
        parts = [part for part in (*self.encoders, *self.projectors) if part is not None]
        return any(getattr(layer, "synchronized", False) for part in parts for layer in nested_layers(part))

    def project(self, views: tuple[Structure, ...], training: bool | None) -> Tensor:
        """Projections `(B, V, D)` of a tuple of V views."""
        check_tuple(views, len(self.encoders))
        return project_views([partial(self._projection, n) for n in range(len(self.encoders))], views, training)

    def embed(self, x: Structure, training: bool | None) -> Structure:
        """L2-normalised features `(B, F)` of samples; for a tuple of views or of inputs of the encoders, a tuple."""
        if not isinstance(x, tuple) and len(self.encoders) == 1:
            return l2_normalize(self._features(0, x, training))
        check_tuple(x, len(self.encoders))
        inputs: tuple[Structure, ...] = x  # type: ignore[assignment]  # `check_tuple` raises for anything else
        numbers = range(len(self.encoders)) if len(self.encoders) > 1 else [0] * len(inputs)
        return tuple(l2_normalize(self._features(n, part, training)) for n, part in zip(numbers, inputs, strict=True))

    def networks(self) -> list[keras.Model]:
        """Each encoder with its projector as one functional model that shares their weights."""
        return [_joined(*branch) for branch in zip(self.encoders, self.projectors, strict=True)]

    def _projection(self, number: int, x: Structure, training: bool | None) -> Tensor:
        features, projector = self._features(number, x, training), self.projectors[number]
        if projector is None:
            return features
        projection = projector(features, training=training)
        check_output(projection.shape, "projector")
        return projection

    def _features(self, number: int, x: Structure, training: bool | None) -> Tensor:
        encode, size = self.encoders[number], self.slice_size
        features = encode_in_slices(encode, x, size, training) if size else encode(x, training=training)
        check_output(getattr(features, "shape", type(features).__name__), "encoder")
        return features


def project_views(
    networks: Sequence[Callable[..., Tensor]], views: tuple[Structure, ...], training: bool | None
) -> Tensor:
    """The projections `(B, V, D)` of V views.

    Args:
        networks: functions from a batch of views to projections `(B, D)`: one, or one for each view.
        views: tuple of V batches. One network sees views of one size as a single batch, so that batch normalisation
            mixes them.
        training: of the networks.
    """
    if len(networks) > 1:
        projections = [network(view, training=training) for network, view in zip(networks, views, strict=True)]
        check_widths([projection.shape[-1] for projection in projections])
        return ops.stack(projections, axis=1)
    every: list[Tensor] = []  # (B, D) of each view
    for _, group in itertools.groupby(views, lambda view: [tuple(part.shape[1:]) for part in keras.tree.flatten(view)]):
        same = list(group)
        stacked = keras.tree.map_structure(lambda *parts: ops.concatenate(parts, axis=0), *same)
        every += ops.split(networks[0](stacked, training=training), len(same))
    return ops.stack(every, axis=1)


def _build(encoder: keras.Model, projector: keras.Layer | None) -> bool:
    if not (encoder.built and getattr(encoder, "inputs", None)):
        return False
    check_output(encoder.output_shape, "encoder")
    if projector is not None and not projector.built:
        projector.build(encoder.output_shape)
    return True


def _joined(encoder: keras.Model, projector: keras.Layer | None) -> keras.Model:
    inputs = inputs_of(encoder, "`momentum`")
    if projector is None:
        return encoder
    projection = projector(encoder.outputs[0])
    check_output(projection.shape, "projector")
    return keras.Model(inputs, projection)


def inputs_of(encoder: keras.Model, what: str) -> Structure:
    """The structure of a model's symbolic inputs.

    Raises:
        ValueError: if it does not know them, in the name of what needs them.
    """
    if not getattr(encoder, "inputs", None):
        raise ValueError(
            f"{what} needs an encoder that knows its inputs. Received: {type(encoder).__name__} `{encoder.name}`. "
            "Begin a Sequential with keras.Input, or wrap the encoder: x = keras.Input(shape); "
            "keras.Model(x, encoder(x))."
        )
    return encoder.inputs[0] if isinstance(encoder, keras.Sequential) else encoder.input
