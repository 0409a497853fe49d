"""Where the views of a model are made: in the input pipeline, or in the training step."""

from __future__ import annotations

import tensorflow as tf

from keras_tfcl.layers import ImageAugmenter
from keras_tfcl.typing import Augmenter, SeededAugmenter

AUGMENT_ON = ("auto", "host", "device")


def augments_on_device(augment_on: str, augmenter: Augmenter | None, replicas: int) -> bool:
    """Whether the training step makes the views. ValueError for `"device"` where it cannot."""
    if augment_on not in AUGMENT_ON:
        raise ValueError(f"`augment_on` must be one of {list(AUGMENT_ON)}. Received: augment_on={augment_on!r}.")
    possible = isinstance(augmenter, SeededAugmenter) and replicas == 1
    if augment_on == "auto":
        return possible and compiles_with_xla(augmenter) and bool(tf.config.list_physical_devices("GPU"))
    if augment_on == "device" and not possible:
        received = f"{replicas} replicas" if replicas > 1 else f"augmenter={type(augmenter).__name__}"
        raise ValueError(
            'augment_on="device" needs an augmenter with a method `augment(x, seed)`, and a single replica. Received: '
            f'{received}. Pass image_augmenter(...), put Keras layers into an ImageAugmenter, or leave "auto".'
        )
    return augment_on == "device"


def compiles_with_xla(augmenter: Augmenter | None) -> bool:
    """Whether an augmenter is known to compile with XLA."""
    return isinstance(augmenter, ImageAugmenter) and augmenter.compiles
