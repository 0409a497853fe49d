"""The metadata of a file about its model, so that a server needs only the file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_tfcl.export.keras_to_onnx.golden_inputs import Golden, difference_of
from keras_tfcl.export.keras_to_onnx.source import Precision, Source, computing_as_built, hash_weights
from keras_tfcl.export.runtime.golden_inputs import dump_golden_inputs
from keras_tfcl.export.runtime.metadata import KEY, Preprocessing, dump_metadata
from keras_tfcl.export.runtime.requirements import installed_versions, require

if TYPE_CHECKING:
    import keras

_PACKAGES = ("keras-tfcl", "keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")
_PREPARING = {  # layer class -> settings that describe its effect
    "Rescaling": ("scale", "offset"),
    "Normalization": ("axis", "mean", "variance"),
    "Resizing": ("height", "width", "interpolation", "crop_to_aspect_ratio", "pad_to_aspect_ratio"),
    "CenterCrop": ("height", "width"),
}
_PIXEL_SCALES = (1 / 255, 1 / 127.5)
_LONGEST_CONFIG = 1 << 14  # characters of a loss's settings; longer settings, such as tables, are left out
_MOST_NUMBERS = 16  # in a setting, so that a mean image does not fill the metadata


def describe(
    model: keras.Model,
    source: Source,
    golden: Sequence[Golden],
    *,
    normalize: bool,
    precision: Precision,
    notes: Mapping[str, object] | None,
) -> dict[str, object]:
    """Return all metadata that are known before the file is compared with the model."""
    names = [spec.name for spec in source.inputs]
    generated = [(dict(zip(names, batch.generators, strict=False)), batch.reference) for batch in golden]
    return {
        "inputs": [spec.to_dict() for spec in source.inputs],
        "preprocessing": describe_preprocessing(source),
        "dimension": golden[0].reference.shape[1],
        "normalized": normalize,
        "metric": "cosine" if normalize else None,
        "projector": source.projector,
        "encoder": {"class": type(source.encoder).__name__, "name": source.encoder.name},
        "objective": describe_objective(model),
        "precision": _describe_precision(source, golden, normalize, precision),
        "weights_sha256": hash_weights(source.weights),
        "probes": dump_golden_inputs(generated),
        "notes": dict(notes or {}),
        "versions": installed_versions(*_PACKAGES),
    }


def add_metadata(path: Path, content: Mapping[str, object]) -> None:
    """Append the metadata to a file that holds a model without them, and wait until it is on the disk.

    A protobuf message may be written in parts, so the bytes of the model, which have been checked, do not change.
    """
    onnx = require("onnx", "export")
    entry = onnx.StringStringEntryProto(key=KEY, value=dump_metadata(dict(content)))
    with path.open("ab") as file:
        file.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def _describe_precision(
    source: Source, golden: Sequence[Golden], normalize: bool, precision: Precision
) -> dict[str, object]:
    """Return the policies of the model, and the difference between its own embeddings and the float32 embeddings."""
    if not precision.policies:
        return {"policies": [], "difference": None}
    with computing_as_built(precision):
        difference = difference_of(source, golden, normalize)
    return {"policies": precision.policies, "difference": difference and difference.to_dict()}


def describe_preprocessing(source: Source) -> Preprocessing:
    """Return the layout, size and range of the image input, as far as they are known, and the preprocessing layers."""
    steps = [step for layer in source.layers if (step := _preparing_step(layer))]
    images = [spec for spec in source.inputs if len(spec.shape) == 4]
    if not images:
        return {"inside": steps}
    scales = [step.get("scale") for step in steps if step["layer"] == "Rescaling"]
    pixels = images[0].dtype == "uint8" or any(_is_pixel_scale(scale) for scale in scales[:1])
    first = require("keras", "tf").config.image_data_format() == "channels_first"
    return {
        "layout": "NCHW" if first else "NHWC",
        "size": list(images[0].shape[2:4] if first else images[0].shape[1:3]),
        "range": [0, 255] if pixels else None,
        "inside": steps,
    }


def describe_objective(model: keras.Model) -> dict[str, object] | None:
    """Return the loss of a compiled model, its settings and its learned numbers; None if there is no loss."""
    loss = getattr(model, "loss", None)
    if loss is None:
        return None
    if not hasattr(loss, "get_config"):
        return {"loss": loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)}
    learned = {
        weight.path: float(weight.numpy())
        for layer in getattr(model, "loss_layers", ())
        for weight in layer.weights
        if len(weight.shape) == 0
    }
    serialize = require("keras", "tf").saving.serialize_keras_object
    config = _as_json(serialize(loss)["config"])
    short = len(json.dumps(config)) <= _LONGEST_CONFIG
    return {"loss": type(loss).__name__, "config": config if short else None, "learned": _as_json(learned)}


def _preparing_step(layer: keras.Layer) -> dict[str, object] | None:
    name = type(layer).__name__
    if name not in _PREPARING or not type(layer).__module__.startswith("keras."):
        return None
    return {"layer": name} | {setting: _as_numbers(getattr(layer, setting, None)) for setting in _PREPARING[name]}


def _as_numbers(value: object) -> object:
    """Return a setting in JSON types; None if it has too many numbers to record."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    numbers = np.asarray(value, "float64")
    if numbers.size > _MOST_NUMBERS:
        return None
    return _as_json(numbers.item() if numbers.size == 1 else numbers.ravel().tolist())


def _is_pixel_scale(scale: object) -> bool:
    return isinstance(scale, float) and any(math.isclose(scale, known, rel_tol=1e-3) for known in _PIXEL_SCALES)


def _as_json(value: object) -> object:
    """Return `value` in JSON types, or as text if that is impossible."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)
