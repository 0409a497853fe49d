from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_tfcl.models.gradient_cache import encode_in_slices
from keras_tfcl.ops.similarity import l2_normalize


class Embedder(keras.Model):
    """Encoders and projectors: instances to features, views to projections. What `ContrastiveModel` trains.

    Args:
        encoder: Keras model, or a tuple of models, one for each view.
        projector: layer, a tuple of as many layers, or None.
        encoder_batch_size: largest number of rows that an encoder sees at a time in training, or None.
        **kwargs: of `keras.Model`.
    """

    def __init__(self, encoder: Any, projector: Any, encoder_batch_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # encoder and projector cast for themselves; gradients add up in float32
        self.encoder_batch_size = encoder_batch_size
        self.encoder = tuple(encoder) if isinstance(encoder, (tuple, list)) else encoder
        self.projector = tuple(projector) if isinstance(projector, (tuple, list)) else projector
        _check_branches(self.encoder, self.projector)
        self.built = all([_build(*branch) for branch in zip(self.encoders, self.projectors, strict=True)])

    @property
    def encoders(self) -> tuple[keras.Model, ...]:
        """One encoder for all views, or one for each."""
        return self.encoder if isinstance(self.encoder, tuple) else (self.encoder,)

    @property
    def projectors(self) -> tuple[keras.Layer | None, ...]:
        """The projector of each encoder."""
        return self.projector if isinstance(self.projector, tuple) else (self.projector,) * len(self.encoders)

    @property
    def parts_built(self) -> bool:
        """Whether encoders and projectors have their weights; after `predict` a model is `built` without projector."""
        return all(part is None or part.built for part in (*self.encoders, *self.projectors))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Instances give L2-normalised features `(B, F)`; a tuple of V views gives their projections `(B, V, D)`."""
        if not isinstance(inputs, tuple) and len(self.encoders) == 1:
            return self._embedding(0, inputs, training)
        _check_inputs(inputs, len(self.encoders))
        return project_views([partial(self._projection, n) for n in range(len(self.encoders))], inputs, training)

    def predict_step(self, data: Any) -> Any:
        """What `predict` does with a batch: with several encoders, each embeds its own input."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        if len(self.encoders) == 1:
            return self(x, training=False)
        _check_inputs(x, len(self.encoders))
        return tuple(self._embedding(n, part, training=False) for n, part in enumerate(x))

    def _embedding(self, number: int, x: Any, training: bool | None) -> Any:
        return l2_normalize(self._features(number, x, training))

    def _projection(self, number: int, x: Any, training: bool | None) -> Any:
        features, projector = self._features(number, x, training), self.projectors[number]
        if projector is None:
            return features
        projection = projector(features, training=training)
        check_output(projection.shape, "projector")
        return projection

    def _features(self, number: int, x: Any, training: bool | None) -> Any:
        encode, rows = self.encoders[number], self.encoder_batch_size
        features = encode_in_slices(encode, x, rows, training) if rows else encode(x, training=training)
        check_output(getattr(features, "shape", type(features).__name__), "encoder")
        return features


def project_views(networks: Sequence[Callable[..., Any]], views: tuple, training: bool | None) -> Any:
    """The projections `(B, V, D)` of V views.

    Args:
        networks: functions from a batch of views to projections `(B, D)`: one, or one for each view.
        views: tuple of V batches. One network sees them as a single batch, so that batch normalisation mixes them.
        training: of the networks.
    """
    if len(networks) > 1:
        projections = [network(view, training=training) for network, view in zip(networks, views, strict=True)]
        if len({projection.shape[-1] for projection in projections}) > 1:
            raise ValueError(
                "All encoders must give projections of one size. Received: sizes "
                f"{[projection.shape[-1] for projection in projections]}. Give each a projector that ends in the same "
                "size: projector=(ProjectionHead((256, 128)), ProjectionHead((256, 128)))."
            )
        return ops.stack(projections, axis=1)
    stacked = keras.tree.map_structure(lambda *parts: ops.concatenate(parts, axis=0), *views)
    projections = networks[0](stacked, training=training)  # (V * B, D), view by view
    projections = ops.reshape(projections, (len(views), -1, projections.shape[-1]))
    return ops.transpose(projections, (1, 0, 2))  # (B, V, D)


def joined_network(encoder: keras.Model, projector: keras.Layer | None) -> keras.Model:
    """Encoder and projector as one functional model that shares their weights.

    Raises:
        ValueError: if the encoder does not know its inputs.
    """
    if not getattr(encoder, "inputs", None):
        raise ValueError(
            "`momentum` needs an encoder that knows its inputs, to copy it. Received: "
            f"{type(encoder).__name__} `{encoder.name}`. Begin a Sequential with keras.Input, or wrap the encoder: "
            "x = keras.Input(shape); keras.Model(x, encoder(x))."
        )
    if projector is None:
        return encoder
    inputs = encoder.inputs[0] if isinstance(encoder, keras.Sequential) else encoder.input
    projection = projector(encoder.outputs[0])
    check_output(projection.shape, "projector")
    return keras.Model(inputs, projection)


def check_output(shape: Any, owner: str) -> None:
    """Raises ValueError unless an output's shape is `(B, F)`."""
    if isinstance(shape, (tuple, list)) and len(shape) == 2 and isinstance(shape[-1], int):
        return
    if hasattr(shape, "rank") and shape.rank == 2 and shape[-1] is not None:
        return
    raise ValueError(
        f"The {owner} must give one vector for each instance, shape (B, F). Received: output {shape}. "
        "End it in global pooling, Flatten or Dense, with one output."
    )


def _build(encoder: keras.Model, projector: keras.Layer | None) -> bool:
    """Builds what can be built before the first batch; whether that is all."""
    if not (encoder.built and getattr(encoder, "inputs", None)):
        return False
    check_output(encoder.output_shape, "encoder")
    if projector is not None and not projector.built:
        projector.build(encoder.output_shape)
    return True


def _check_branches(encoder: Any, projector: Any) -> None:
    several = isinstance(encoder, tuple)
    if several and len(encoder) < 2:
        raise ValueError(
            f"A tuple of encoders must hold one for each view, two at least. Received: {len(encoder)}. For one encoder "
            "of all views pass the encoder itself."
        )
    if isinstance(projector, tuple) and (not several or len(projector) != len(encoder)):
        expected = len(encoder) if several else "one encoder"
        raise ValueError(
            f"A tuple of projectors must hold one for each encoder. Received: {len(projector)} projectors for "
            f"{expected}. Pass one projector to share it."
        )


def _check_inputs(views: Any, encoders: int) -> None:
    if encoders > 1 and (not isinstance(views, tuple) or len(views) != encoders):
        received = f"a tuple of {len(views)}" if isinstance(views, tuple) else type(views).__name__
        raise ValueError(
            f"A model of {encoders} encoders takes a tuple with one input for each. Received: {received}. Pass "
            "x=(a, b), in a tf.data element ((a, b),); for one input alone call model.encoders[0] or [1]."
        )
