"""Replace, during the trace, code of Keras layers that depends on whether a size is known.

The eager call, in which every size is known, is the reference. `TimeDistributed` calls its layer step by step there,
while a trace over a free length would vectorize a loop, which ONNX cannot express. `CenterCrop` resizes an image that
is smaller than the crop there, while a trace would crop it wrongly.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    import keras

    from keras_tfcl.typing import Tensor


@contextlib.contextmanager
def free_sizes(layers: Iterable[keras.Layer]) -> Iterator[None]:
    """Make `layers` compute the same in a trace as in an eager call, inside the block."""
    replaced = []
    try:
        for layer in layers:
            replacement = _replacement(layer)
            if replacement is not None:
                name, function = replacement
                vars(layer)[name] = partial(function, layer, getattr(layer, name))
                replaced.append((layer, name))
        yield
    finally:
        for layer, name in replaced:
            del vars(layer)[name]


def _replacement(layer: keras.Layer) -> tuple[str, Callable[..., Tensor]] | None:
    """Return the method of a layer to replace and a function of the layer, the method and its arguments; or None."""
    keras_layers = require("keras", "tf").layers
    for kind, name, function in (
        (keras_layers.TimeDistributed, "call", _time_distributed),
        (keras_layers.CenterCrop, "transform_images", _center_crop),
    ):
        if isinstance(layer, kind) and getattr(type(layer), name) is getattr(kind, name):
            return name, function
    return None


def _time_distributed(
    layer: keras.Layer,
    call: Callable[..., Tensor],
    inputs: Tensor,
    training: bool | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Call the inner layer on all steps of all rows at once: `(B, T, ...)` becomes `(B · T, ...)`."""
    if inputs.shape[1] is not None:
        return call(inputs, training=training, mask=mask)
    ops = require("keras", "tf").ops
    rows, steps, *rest = ops.shape(inputs)
    known = inspect.signature(layer.layer.call).parameters
    options = {"training": training} if "training" in known else {}
    if "mask" in known and mask is not None:
        options["mask"] = ops.reshape(mask, (-1, *ops.shape(mask)[2:]))
    outputs = layer.layer.call(ops.reshape(inputs, (-1, *rest)), **options)
    return ops.reshape(outputs, (rows, steps, *ops.shape(outputs)[1:]))


def _center_crop(
    layer: keras.Layer, transform: Callable[..., Tensor], images: Tensor, *args: object, **options: object
) -> Tensor:
    """Crop the image; if a side is too short, scale the image up first."""
    keras, tf = require("keras", "tf"), require("tensorflow", "tf")
    first = layer.data_format == "channels_first"
    height, width = keras.ops.shape(images)[-2:] if first else keras.ops.shape(images)[-3:-1]
    if isinstance(height, int) and isinstance(width, int):
        return transform(images, *args, **options)
    size = (layer.height, layer.width)
    cropped = tf.cond(
        tf.logical_and(height >= size[0], width >= size[1]),
        lambda: transform(images, *args, **options),
        lambda: keras.preprocessing.image.smart_resize(
            keras.ops.cast(images, layer.compute_dtype), size, data_format=layer.data_format
        ),
    )
    batch, channels = images.shape[:-3], images.shape[-3 if first else -1]
    return tf.ensure_shape(cropped, (*batch, channels, *size) if first else (*batch, *size, channels))
