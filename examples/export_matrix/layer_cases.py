"""One layer or operation each, between an input and a small Dense layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matrix_case import Case, Rows, images, tokens, vectors

Stack = Callable[[], Sequence[Any]]


def _image(*front: Any) -> keras.Model:
    return keras.Sequential([keras.Input((16, 16, 3)), *front, layers.Flatten(), layers.Dense(8)])


def _pixels(*front: Any) -> keras.Model:
    return keras.Sequential([keras.Input((16, 16, 3), dtype="uint8"), *front, layers.Flatten(), layers.Dense(8)])


def _free(*front: Any) -> keras.Model:
    x = keras.Input((None, None, 3))
    return keras.Sequential([x, *front, layers.GlobalAveragePooling2D(), layers.Dense(8)])


def _pooled(*front: Any) -> keras.Model:
    return keras.Sequential([keras.Input((16, 16, 3)), *front, layers.GlobalAveragePooling2D(), layers.Dense(8)])


def _vector(*front: Any) -> keras.Model:
    return keras.Sequential([keras.Input((12,)), layers.Dense(10), *front, layers.Dense(8)])


def _sequence(*front: Any) -> keras.Model:
    return keras.Sequential([keras.Input((9, 6)), *front, layers.GlobalAveragePooling1D(), layers.Dense(8)])


def _token(*front: Any) -> keras.Model:
    return keras.Sequential([keras.Input((None,), dtype="int32"), *front, layers.Dense(8)])


def _attention(*, length: int | None, flash: bool | None = None) -> keras.Model:
    x = keras.Input((length, 6))
    hidden = layers.MultiHeadAttention(2, 4, flash_attention=flash)(x, x)
    return keras.Model(x, layers.Dense(8)(layers.GlobalAveragePooling1D()(hidden)))


def _call(operation: Callable[[Any], Any], shape: tuple[int, ...] | None = None) -> Stack:
    return lambda: [layers.Lambda(operation, output_shape=shape, name="culprit")]


def _table(build: Callable[..., keras.Model], rows: Rows, stacks: dict[str, Stack], refused: bool = False) -> Any:
    return {name: Case(lambda make=make: build(*make()), rows, refused) for name, make in stacks.items()}


def _adapted() -> keras.Layer:
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(0.5, 0.2, (64, 16, 16, 3)))
    return layer


def _quantized() -> keras.Layer:
    layer = layers.Dense(10)
    layer.build((None, 10))
    layer.quantize("int8")
    return layer


def _condition(x: Any) -> Any:
    return ops.cond(ops.sum(x) > -1e9, lambda: x * 2, lambda: x)


def _loop(x: Any) -> Any:
    return ops.fori_loop(0, 3, lambda i, value: value * 0.5 + 1, x)


def _random_crop(x: Any) -> Any:
    return tf.image.random_crop(x, tf.stack([tf.shape(x)[0], 9, 9, 3]))


def _sorted_rows(x: Any) -> Any:
    return ops.take_along_axis(x, ops.argsort(x, axis=1), axis=1)


_activations = {name: (lambda name=name: [layers.Activation(name)]) for name in (
    "relu", "gelu", "silu", "mish", "hard_silu", "selu", "elu", "softplus", "tanh", "softmax", "leaky_relu", "celu",
)}  # fmt: skip

_augmentations = {
    f"{name}": (lambda name=name, arguments=arguments: [getattr(layers, name)(*arguments)])
    for name, arguments in {
        "RandomFlip": (), "RandomRotation": (0.2,), "RandomZoom": (0.2,), "RandomTranslation": (0.2, 0.2),
        "RandomBrightness": (0.2,), "RandomContrast": (0.2,), "RandomColorJitter": (), "RandomGrayscale": (),
        "RandomGaussianBlur": (), "RandomErasing": (), "RandAugment": (),
    }.items()
}  # fmt: skip

CASES: dict[str, Case] = {
    **_table(_vector, vectors(12), {f"activation {name}": stack for name, stack in _activations.items()}),
    **_table(_vector, vectors(12), {
        "GELU, tanh form": _call(lambda x: ops.gelu(x, approximate=True)),
        "BatchNormalization": lambda: [layers.BatchNormalization()],
        "LayerNormalization": lambda: [layers.LayerNormalization()],
        "RMSNormalization": lambda: [layers.RMSNormalization()],
        "UnitNormalization": lambda: [layers.UnitNormalization()],
        "GaussianNoise, Dropout, AlphaDropout": lambda: [
            layers.GaussianNoise(0.5), layers.Dropout(0.5), layers.AlphaDropout(0.5),
        ],
        "EinsumDense": lambda: [layers.EinsumDense("ab,bc->ac", 10)],
        "Dense quantized to int8 by Keras": lambda: [_quantized()],
        "ops.erf": _call(ops.erf),
        "ops.top_k": _call(lambda x: ops.top_k(x, 4)[0], (4,)),
        "ops.sort": _call(lambda x: ops.sort(x, axis=1)),
        "ops.take_along_axis, ops.argsort": _call(_sorted_rows),
        "ops.logsumexp": _call(lambda x: ops.logsumexp(x, axis=1, keepdims=True), (1,)),
        "ops.norm": _call(lambda x: x / ops.norm(x, axis=1, keepdims=True)),
        "ops.cumsum": _call(lambda x: ops.cumsum(x, axis=1)),
        "ops.cumprod": _call(lambda x: ops.cumprod(x, axis=1)),
        "ops.log1p, ops.expm1": _call(lambda x: ops.log1p(ops.abs(x)) + ops.expm1(x)),
        "ops.argmax of floats": _call(lambda x: ops.one_hot(ops.argmax(x, axis=1), 10)),
        "ops.where beside 0 / 0": _call(lambda x: ops.where(x > 0, x, 0) / ops.where(x > 0, x, 1)),
        "ops.std": _call(lambda x: x / ops.std(x, axis=1, keepdims=True)),
        "ops.einsum": _call(lambda x: ops.einsum("bi,bj->bj", x, x)),
        "ops.cond": _call(_condition),
        "ops.fori_loop": _call(_loop),
        "ops.vectorized_map": _call(lambda x: ops.vectorized_map(lambda row: row * 2, x)),
        "tf.math.l2_normalize": _call(lambda x: tf.math.l2_normalize(x, axis=1)),
    }),
    **_table(_image, images(), {
        "Conv2D, BatchNormalization": lambda: [layers.Conv2D(8, 3), layers.BatchNormalization()],
        "Conv2D, 4 groups": lambda: [layers.Conv2D(8, 3), layers.Conv2D(8, 3, groups=4)],
        "Conv2D, dilated": lambda: [layers.Conv2D(8, 3, dilation_rate=2, padding="same")],
        "DepthwiseConv2D, SeparableConv2D": lambda: [layers.DepthwiseConv2D(3), layers.SeparableConv2D(8, 3)],
        "Conv2DTranspose": lambda: [layers.Conv2DTranspose(4, 3, strides=2)],
        "GroupNormalization": lambda: [layers.Conv2D(8, 3), layers.GroupNormalization(4)],
        "LayerNormalization of images": lambda: [layers.Conv2D(8, 3), layers.LayerNormalization()],
        "AveragePooling2D, same": lambda: [layers.AveragePooling2D(3, padding="same")],
        "MaxPooling2D": lambda: [layers.MaxPooling2D()],
        "MaxPooling2D, same": lambda: [layers.Conv2D(4, 3), layers.MaxPooling2D(3, padding="same")],
        "ZeroPadding2D, MaxPooling2D of negative numbers": lambda: [
            layers.Rescaling(-1), layers.ZeroPadding2D(1), layers.MaxPooling2D(3),
        ],
        "ZeroPadding2D, AveragePooling2D": lambda: [layers.ZeroPadding2D(1), layers.AveragePooling2D(3)],
        "AdaptiveAveragePooling2D": lambda: [layers.AdaptiveAveragePooling2D(4)],
        "UpSampling2D, bilinear": lambda: [layers.UpSampling2D(interpolation="bilinear")],
        "Rescaling": lambda: [layers.Rescaling(1 / 127.5, offset=-1)],
        "Normalization, given": lambda: [layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])],
        "Normalization, adapted": lambda: [_adapted()],
        "CenterCrop": lambda: [layers.CenterCrop(10, 10)],
        "Resizing, bilinear": lambda: [layers.Resizing(9, 11)],
        "Resizing, nearest": lambda: [layers.Resizing(9, 11, "nearest")],
        "Resizing, crop_to_aspect_ratio": lambda: [layers.Resizing(9, 11, crop_to_aspect_ratio=True)],
        "Resizing, pad_to_aspect_ratio": lambda: [layers.Resizing(9, 11, pad_to_aspect_ratio=True)],
        "tf.image.resize": _call(lambda x: tf.image.resize(x, (9, 11)), (9, 11, 3)),
        "ops.image.rgb_to_grayscale": _call(ops.image.rgb_to_grayscale, (16, 16, 1)),
        "ops.image.extract_patches": _call(lambda x: ops.image.extract_patches(x, 4), (4, 4, 48)),
        "ops.image.gaussian_blur": _call(ops.image.gaussian_blur, (16, 16, 3)),
    }),
    **_table(_free, images(), {
        "Resizing of images of any size": lambda: [layers.Resizing(9, 11), layers.Conv2D(4, 3)],
        "Resizing, nearest, of images of any size": lambda: [layers.Resizing(9, 11, "nearest")],
        "CenterCrop of images of any size, also smaller ones": lambda: [layers.CenterCrop(20, 10)],
        "tf.image.resize_with_pad of images of any size": _call(
            lambda x: tf.image.resize_with_pad(x, 9, 11), (9, 11, 3)
        ),
        **_augmentations,
    }),
    **_table(_pooled, images(), {"RandomCrop": lambda: [layers.RandomCrop(12, 12)]}),
    **_table(_pixels, images(dtype="uint8", high=255), {
        "Rescaling of uint8": lambda: [layers.Rescaling(1 / 255)],
        "Rescaling, RandomFlip, grouped Conv2D, GELU of uint8": lambda: [
            layers.Rescaling(1 / 255), layers.RandomFlip(), layers.Conv2D(6, 3, groups=3, activation="gelu"),
        ],
    }),
    **_table(_sequence, vectors(9, 6), {
        "Conv1D, causal": lambda: [layers.Conv1D(6, 3, padding="causal")],
        "LSTM": lambda: [layers.LSTM(6, return_sequences=True)],
        "GRU": lambda: [layers.GRU(6, return_sequences=True)],
        "Bidirectional LSTM": lambda: [layers.Bidirectional(layers.LSTM(4, return_sequences=True))],
        "SimpleRNN": lambda: [layers.SimpleRNN(6, return_sequences=True)],
    }),
    **_table(_token, tokens(), {
        "Embedding": lambda: [layers.Embedding(40, 8), layers.GlobalAveragePooling1D()],
        "Embedding with mask, pooled": lambda: [
            layers.Embedding(40, 8, mask_zero=True), layers.GlobalAveragePooling1D(),
        ],
        "Embedding with mask, LSTM": lambda: [layers.Embedding(40, 8, mask_zero=True), layers.LSTM(6)],
        "Embedding, GRU, any length": lambda: [layers.Embedding(40, 8), layers.GRU(6)],
        "integer // and %": lambda: [
            layers.Lambda(lambda x: (x - 20) % 7 + (x - 20) // 7 + 3, output_shape=(None,)),
            layers.Embedding(13, 8), layers.GlobalAveragePooling1D(),
        ],
        "ops.one_hot of ids out of range": _call(lambda x: 1 + ops.sum(ops.one_hot(x - 1, 30), axis=1), (30,)),
        "TimeDistributed over any length": lambda: [
            layers.Embedding(40, 8), layers.TimeDistributed(layers.Dense(6)), layers.GlobalAveragePooling1D(),
        ],
        "CategoryEncoding, multi hot": lambda: [layers.CategoryEncoding(40, "multi_hot")],
    }),
    "MultiHeadAttention": Case(lambda: _attention(length=9), vectors(9, 6)),
    "MultiHeadAttention, flash off": Case(lambda: _attention(length=9, flash=False), vectors(9, 6)),
    "MultiHeadAttention, any length": Case(lambda: _attention(length=None), vectors(11, 6)),
    **_table(_image, images(), {
        "Resizing, area": lambda: [layers.Resizing(9, 11, "area")],
        "Resizing, antialias": lambda: [layers.Resizing(9, 11, antialias=True)],
        "Resizing, lanczos3": lambda: [layers.Resizing(9, 11, "lanczos3")],
        "Resizing, bicubic, to smaller": lambda: [layers.Resizing(9, 11, "bicubic")],
        "Resizing, bicubic, to larger": lambda: [layers.Resizing(30, 30, "bicubic")],
        "resize by area in a Lambda": _call(lambda x: tf.image.resize(x, (9, 9), "area"), (9, 9, 3)),
        "ops.image.rgb_to_hsv": _call(ops.image.rgb_to_hsv, (16, 16, 3)),
        "random crop in a Lambda": _call(_random_crop, (9, 9, 3)),
    }, refused=True),
    **_table(_vector, vectors(12), {
        "ops.erfinv": _call(lambda x: ops.erfinv(ops.tanh(x))),
        "ops.svd": _call(lambda x: ops.svd(ops.expand_dims(x, 2), compute_uv=False)[:, 0:1], (1,)),
        "ops.fft": _call(lambda x: ops.fft((x, x))[0]),
        "ops.qr": _call(lambda x: ops.qr(ops.expand_dims(x, 2))[1][:, 0], (1,)),
        "Discretization": lambda: [layers.Discretization([0.0, 1.0])],
        "noise in a Lambda": _call(lambda x: x + keras.random.normal((10,))),
        "Python `if` on a value in a Lambda": _call(lambda x: x * (2.0 if float(x[0, 0]) > 0 else 1.0)),
        "statistics of the batch in a Lambda": _call(lambda x: x - ops.mean(x, axis=0)),
    }, refused=True),
    **_table(_token, tokens(), {
        "IntegerLookup": lambda: [
            layers.IntegerLookup(vocabulary=[1, 2]), layers.Embedding(4, 8), layers.GlobalAveragePooling1D(),
        ],
        "Hashing": lambda: [layers.Hashing(4), layers.Embedding(4, 8), layers.GlobalAveragePooling1D()],
    }, refused=True),
}  # fmt: skip
