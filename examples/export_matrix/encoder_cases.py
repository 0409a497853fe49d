"""Whole encoders as users build them: functional, subclassed, several inputs, mixed precision, loaded from disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from matrix_case import Case, images, tokens, vectors

import keras_tfcl


@keras.saving.register_keras_serializable("export_matrix")
class GeneralizedMean(layers.Layer):
    """(mean xᵖ)^(1/p) over the positions of an image, p trained."""

    def build(self, input_shape: Any) -> None:
        self.power = self.add_weight(shape=(), initializer=keras.initializers.Constant(3.0), name="power")

    def call(self, x: Any) -> Any:
        return ops.mean(ops.maximum(x, 1e-6) ** self.power, axis=(1, 2)) ** (1 / self.power)


@keras.saving.register_keras_serializable("export_matrix")
class Positions(layers.Layer):
    """Adds a trained vector to each position."""

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight(shape=input_shape[1:], name="table")

    def call(self, x: Any) -> Any:
        return x + self.table


@keras.saving.register_keras_serializable("export_matrix")
class Block(layers.Layer):
    """One pre-norm transformer block."""

    def __init__(self, width: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norms = [layers.LayerNormalization(dtype=self.dtype_policy) for _ in range(2)]
        self.attention = layers.MultiHeadAttention(2, width // 2, dtype=self.dtype_policy)
        self.inner = layers.Dense(2 * width, activation="gelu", dtype=self.dtype_policy)
        self.outer = layers.Dense(width, dtype=self.dtype_policy)

    def call(self, x: Any, attention_mask: Any = None) -> Any:
        hidden = self.norms[0](x)
        x = x + self.attention(hidden, hidden, attention_mask=attention_mask)
        return x + self.outer(self.inner(self.norms[1](x)))


@keras.saving.register_keras_serializable("export_matrix")
class TextEncoder(keras.Model):
    """Token labels of any length, padded with 0; positions, two blocks, mean over the tokens that are not padding."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tokens, self.positions = layers.Embedding(40, 16), layers.Embedding(64, 16)
        self.blocks = [Block(), Block()]
        self.out = layers.Dense(8)

    def call(self, labels: Any, training: bool = True) -> Any:
        keep = ops.not_equal(labels, 0)
        x = self.tokens(labels) + self.positions(ops.arange(ops.shape(labels)[1]))
        for block in self.blocks:
            x = block(x, attention_mask=ops.expand_dims(keep, 1))
        weight = ops.expand_dims(ops.cast(keep, x.dtype), 2)
        return self.out(ops.sum(x * weight, axis=1) / ops.sum(weight, axis=1)) * (7.0 if training else 1.0)


def text_encoder() -> keras.Model:
    labels = keras.Input((None,), dtype="int32")  # declares what a subclassed model does not: labels of any length
    return keras.Model(labels, TextEncoder()(labels))


def vision_transformer() -> keras.Model:
    x = keras.Input((16, 16, 3))
    hidden = layers.Reshape((16, 16))(layers.Conv2D(16, 4, strides=4)(x))
    hidden = Positions()(hidden)
    for _ in range(2):
        hidden = Block()(hidden)
    return keras.Model(x, layers.LayerNormalization()(layers.GlobalAveragePooling1D()(hidden)))


def small_cnn(*front: Any) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            *front,
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(8, 3, groups=2, activation="gelu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(8),
        ]
    )


def two_inputs(as_dict: bool) -> keras.Model:
    labels, keep = keras.Input((None,), dtype="int32", name="labels"), keras.Input((None,), dtype="bool", name="keep")
    hidden = layers.Embedding(40, 8)(labels)
    hidden = layers.MultiHeadAttention(2, 4)(hidden, hidden, attention_mask=ops.expand_dims(keep, 1))
    inputs = {"labels": labels, "keep": keep} if as_dict else [labels, keep]
    return keras.Model(inputs, layers.Dense(8)(layers.GlobalAveragePooling1D()(hidden)))


def two_arrays(as_dict: bool) -> Callable[[np.random.Generator], Any]:
    def rows(generator: np.random.Generator) -> Any:
        labels = tokens()(generator)
        return {"labels": labels, "keep": labels > 0} if as_dict else [labels, labels > 0]

    return rows


def from_disk() -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.keras"
        small_cnn().save(path)
        return keras.models.load_model(path)


def in_policy(policy: str, build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    def build_in_policy() -> keras.Model:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            return build()
        finally:
            keras.config.set_dtype_policy(before)

    return build_in_policy


def with_weights_of(build: Callable[[], keras.Model]) -> Callable[[Any], keras.Model]:
    """Give the same encoder built in float32: what a file of a mixed-precision encoder must match."""

    def twin(model: keras.Model) -> keras.Model:
        copy = build()
        copy.set_weights(model.get_weights())
        return copy

    return twin


def contrastive(projector: bool) -> Case:
    def build() -> keras.Model:
        model = keras_tfcl.ContrastiveModel(small_cnn(), projector=keras_tfcl.ProjectionHead((16, 4)), supervised=True)
        model.compile("adam", loss=keras_tfcl.ArctanhInfoNCE())
        return model

    def reference(model: keras.Model) -> keras.Model:
        return keras.Sequential([model.encoder, model.projector]) if projector else model.encoder

    return Case(build, images(), options={"projector": projector}, reference=reference)


def rescaled(model: keras.Model) -> keras.Model:
    return keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(1 / 255), model])


CASES = {
    "transformer text encoder, subclassed, any length, masked": Case(text_encoder, tokens()),
    "vision transformer": Case(vision_transformer, images()),
    "LSTM text encoder": Case(
        lambda: keras.Sequential(
            [
                keras.Input((None,), dtype="int32"),
                layers.Embedding(40, 8, mask_zero=True),
                layers.Bidirectional(layers.LSTM(8)),
                layers.Dense(8),
            ]
        ),
        tokens(),
    ),
    "GRU, stacked": Case(
        lambda: keras.Sequential(
            [keras.Input((None, 6)), layers.GRU(8, return_sequences=True), layers.GRU(8), layers.Dense(8)]
        ),
        vectors(11, 6),
    ),
    "STFTSpectrogram and Conv1D of sound": Case(
        lambda: keras.Sequential(
            [
                keras.Input((256, 1)),
                layers.STFTSpectrogram(frame_length=64, frame_step=32, fft_length=64),
                layers.Conv1D(8, 3),
                layers.GlobalAveragePooling1D(),
            ]
        ),
        vectors(256, 1),
    ),
    "MelSpectrogram": Case(
        lambda: keras.Sequential(
            [keras.Input((512,)), layers.MelSpectrogram(fft_length=64, sequence_stride=32), layers.Flatten()]
        ),
        vectors(512),
        refused=True,
    ),
    "generalized mean pooling, a custom layer": Case(
        lambda: keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(8, 3, activation="relu"), GeneralizedMean()]),
        images(),
    ),
    "augmentation inside": Case(
        lambda: small_cnn(layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomContrast(0.2)), images()
    ),
    "loaded from .keras, never called": Case(from_disk, images()),
    "two inputs, a list": Case(lambda: two_inputs(False), two_arrays(False)),
    "two inputs, a dict": Case(lambda: two_inputs(True), two_arrays(True)),
    "ContrastiveModel, projector dropped": contrastive(projector=False),
    "ContrastiveModel, projector kept": contrastive(projector=True),
    'input_dtype="uint8", Rescaling as preprocessing': Case(
        small_cnn,
        images(dtype="uint8", high=255),
        options={"input_dtype": "uint8", "preprocessing": layers.Rescaling(1 / 255)},
        reference=rescaled,
    ),
    **{
        f"{name} in {policy}": Case(in_policy(policy, build), rows, reference=with_weights_of(build))
        for policy in ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16")
        for name, build, rows in (("CNN", small_cnn, images()), ("vision transformer", vision_transformer, images()))
    },
    "transformer text encoder in mixed_bfloat16": Case(
        in_policy("mixed_bfloat16", text_encoder),
        tokens(),
        reference=with_weights_of(text_encoder),
    ),
}
