"""The encoders that are timed, in Keras and in torch: a small convolutional net, a ResNet-18, a small transformer."""

from __future__ import annotations

import itertools
from typing import Any

MODELS = {"small": (32, 32, 3), "resnet18": (96, 96, 3), "transformer": (64, 192)}  # name -> shape of a row
FILTERS = (64, 128, 256, 512)
BLOCKS, HEADS, WIDTH = 4, 3, 192


def keras_model(name: str) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input(MODELS[name])
    return keras.Model(inputs, {"small": _small, "resnet18": _resnet, "transformer": _transformer}[name](inputs))


def _normalized(x: Any, filters: int, kernel: int, strides: int, relu: bool = True) -> Any:
    from keras import layers

    x = layers.ZeroPadding2D(kernel // 2)(x) if kernel > 1 else x  # as torch pads, also for strides
    x = layers.BatchNormalization(epsilon=1e-5)(layers.Conv2D(filters, kernel, strides, use_bias=False)(x))
    return layers.ReLU()(x) if relu else x


def _small(x: Any) -> Any:
    from keras import layers

    for filters, strides in ((32, 2), (64, 2), (256, 1)):
        x = _normalized(x, filters, 5, strides)
    return layers.GlobalMaxPooling2D()(x)


def _resnet(x: Any) -> Any:
    from keras import layers

    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(_normalized(x, 64, 7, 2)))
    for stage, filters in enumerate(FILTERS):
        for block in range(2):
            strides = 2 if stage and not block else 1
            shortcut = _normalized(x, filters, 1, strides, relu=False) if strides == 2 else x
            x = _normalized(_normalized(x, filters, 3, strides), filters, 3, 1, relu=False)
            x = layers.ReLU()(x + shortcut)
    return layers.GlobalAveragePooling2D()(x)


def _transformer(x: Any) -> Any:
    from keras import layers

    for _ in range(BLOCKS):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        x = x + layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(y, y)
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        x = x + layers.Dense(WIDTH)(layers.Dense(4 * WIDTH, activation="gelu")(y))
    return layers.GlobalAveragePooling1D()(x)


def torch_model(name: str) -> Any:
    """The same architecture; images come as (N, C, H, W)."""
    from torch import nn

    def normalized(inputs: int, filters: int, kernel: int, strides: int, relu: bool = True) -> nn.Module:
        conv = nn.Conv2d(inputs, filters, kernel, strides, kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(filters), *[nn.ReLU()] * relu)

    class Block(nn.Module):
        def __init__(self, inputs: int, filters: int, strides: int) -> None:
            super().__init__()
            last = normalized(filters, filters, 3, 1, relu=False)
            self.body = nn.Sequential(normalized(inputs, filters, 3, strides), last)
            self.shortcut = normalized(inputs, filters, 1, 2, relu=False) if strides == 2 else nn.Identity()

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.body(x) + self.shortcut(x))

    class Mean(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.mean(1)

    if name == "small":
        convolutions = [normalized(3, 32, 5, 2), normalized(32, 64, 5, 2), normalized(64, 256, 5, 1)]
        return nn.Sequential(*convolutions, nn.AdaptiveMaxPool2d(1), nn.Flatten()).eval()
    if name == "resnet18":
        blocks = [Block(64, 64, 1), Block(64, 64, 1)]
        for inputs, filters in itertools.pairwise(FILTERS):
            blocks += [Block(inputs, filters, 2), Block(filters, filters, 1)]
        stem = [normalized(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
        return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False), Mean()).eval()
