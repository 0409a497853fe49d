"""One member of every family in keras.applications, without trained weights, small images."""

from __future__ import annotations

import keras
from matrix_case import Case, images

_SIZES = {
    "VGG16": 32, "ResNet50": 64, "ResNet50V2": 64, "InceptionV3": 80, "InceptionResNetV2": 80, "Xception": 71,
    "MobileNet": 64, "MobileNetV2": 64, "MobileNetV3Small": 64, "DenseNet121": 64, "NASNetMobile": 64,
    "EfficientNetB0": 64, "EfficientNetV2B0": 64, "ConvNeXtTiny": 64,
}  # fmt: skip
_TAKE_PIXELS = ("MobileNetV3", "EfficientNet", "ConvNeXt")  # Rescaling inside


def _build(name: str, size: int) -> keras.Model:
    return getattr(keras.applications, name)(
        weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3)
    )


CASES = {
    name: Case(
        lambda name=name, size=size: _build(name, size), images(size, high=255 if name.startswith(_TAKE_PIXELS) else 1)
    )
    for name, size in _SIZES.items()
}
