"""Raise an error for layers and operations that convert wrongly, before a conversion that can take a minute.

There are two checks: of the layers, whose names the user knows, and of the operations of the traced graph, which also
shows what the `call` of a layer does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from keras_tfcl.export.errors import NonFiniteError, UnsupportedLayerError, UnsupportedOpError
from keras_tfcl.export.keras_to_onnx.source import HALF, Source

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_TEXT = "Look up and tokenise outside the model, and take integer ids in."
_BINS = "Compute the bins outside the model, for example with numpy.digitize."
_RESIZE = "Resize outside the model, or use interpolation='bilinear' or 'nearest' with antialias=False."
_RANDOM = "Give the layer a `training` argument and do nothing random when it is False."
_ALGEBRA = "Decompose or invert matrices outside the model."
_SPECTRUM = "Compute spectra outside the model, or use keras.layers.STFTSpectrogram."

_LAYERS = {
    "StringLookup": _TEXT,
    "IntegerLookup": _TEXT,
    "TextVectorization": _TEXT,
    "Hashing": _TEXT,
    "HashedCrossing": _TEXT,
    "Discretization": _BINS,
    "MelSpectrogram": _SPECTRUM,
}
_RESIZERS = ("Resizing", "UpSampling2D")
_GOOD_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")

# TensorFlow operation -> remedy. tf2onnx converts the first one without complaint into another operation.
_OPS = {
    "ResizeArea": _RESIZE,
    "ScaleAndTranslate": _RESIZE,
    "LookupTableFindV2": _TEXT,
    "StaticRegexReplace": _TEXT,
    "StringToHashBucketFast": _TEXT,
    "StringSplitV2": _TEXT,
    "Bucketize": _BINS,
    **dict.fromkeys(("FFT", "FFT2D", "IFFT", "IFFT2D", "RFFT", "RFFT2D", "IRFFT", "IRFFT2D", "Complex"), _SPECTRUM),
    "Erfinv": "Apply the inverse error function outside the model.",
    **dict.fromkeys(("Svd", "Qr", "Cholesky", "SelfAdjointEigV2", "MatrixInverse"), _ALGEBRA),
    "RGBToHSV": "Convert colours outside the model.",
    "HSVToRGB": "Convert colours outside the model.",
    "ImageProjectiveTransformV3": "Transform images outside the model.",
    "PyFunc": "Replace Python code inside `call` by keras.ops.",
    "EagerPyFunc": "Replace Python code inside `call` by keras.ops.",
}
_RANDOM_OP = re.compile(r"(Stateless|Stateful)?(Random|TruncatedNormal|Multinomial|ParameterizedTruncatedNormal)\w*")


def lint_weights(source: Source) -> None:
    """Raise if training has diverged.

    Raises:
        NonFiniteError: a weight is NaN, or a trained weight is infinite; the message names every such layer.
    """
    owners = {id(weight): (weight, layer) for layer in source.layers for weight in layer.weights}  # the innermost
    found = {
        f"`{layer.name}` ({type(layer).__name__})": None
        for weight, layer in owners.values()
        if "float" in str(weight.dtype) and _has_diverged(np.asarray(weight, "float32"), weight.trainable)
    }
    if found:
        raise NonFiniteError(
            f"Every weight must be a number. Received: NaN or infinity in {', '.join(found)}: training has diverged. "
            f"Load weights from before that, model.load_weights(path), or train again with a lower learning rate."
        )


def _has_diverged(values: np.ndarray, trained: bool) -> bool:
    # Weights that are not trained may hold -inf on purpose, as a mask.
    return bool((~np.isfinite(values) if trained else np.isnan(values)).any())


def lint_layers(source: Source) -> None:
    """Raise if a layer is known to convert wrongly.

    Raises:
        UnsupportedLayerError: the message names every such layer and a remedy.
    """
    layers = source.layers
    stateful = list(_stateful(source.encoder, "model"))
    if stateful:
        raise UnsupportedLayerError(
            f"A file keeps no state from one batch to the next. Received: a recurrent layer with stateful=True. Turn "
            f"it off: {'; '.join(f'{path}.stateful = False' for path in stateful)}."
        )
    faults = [(layer, fault) for layer in layers if (fault := _layer_fault(layer))]
    if not faults:
        return
    reasons = dict.fromkeys(reason for _, reason in faults)
    parts = [_list_layers([layer for layer, fault in faults if fault == reason], *reason) for reason in reasons]
    raise UnsupportedLayerError("Every layer must have an exact ONNX counterpart. Received: " + " ".join(parts))


def lint_graph(graph_def: tf.compat.v1.GraphDef, layers: Iterable[keras.Layer]) -> None:
    """Raise if an operation of a TensorFlow graph is known to convert wrongly.

    Raises:
        UnsupportedOpError: the message names every such operation, its layer and a remedy.
    """
    faults = {
        (node.op, layer_of(node.name, layers)): remedy
        for node in all_nodes(graph_def)
        if (remedy := _RANDOM if _RANDOM_OP.fullmatch(node.op) else _OPS.get(node.op))
    }
    if faults:
        found = "; ".join(f"{op} in {layer}" for op, layer in faults)
        raise UnsupportedOpError(
            f"Every operation must have an exact ONNX counterpart. Received: {found}. "
            + " ".join(dict.fromkeys(faults.values()))
        )


def hints(layers: Iterable[keras.Layer]) -> list[str]:
    """Describe behaviour of the file, and of `model.predict`, that users may not expect."""
    found = []
    for layer in layers:
        bases = _keras_bases(layer)
        if "RandomCrop" in bases:
            found.append(f"`{layer.name}` (RandomCrop) crops in training only: images keep their size.")
        elif any(name.startswith("Rand") for name in bases):
            found.append(f"`{layer.name}` ({type(layer).__name__}) augments in training only: it does nothing here.")
    return found


def resizers(layers: Iterable[keras.Layer]) -> list[keras.Layer]:
    """Return the layers that resize images."""
    return [layer for layer in layers if _keras_bases(layer).intersection(_RESIZERS)]


def layer_of(node_name: str, layers: Iterable[keras.Layer]) -> str:
    """Name the innermost layer that a graph node belongs to.

    TensorFlow makes scopes unique with a suffix, so the scope `dense_1` may belong to the layer `dense`. The layer
    without the suffix is therefore tried first.
    """
    types = {layer.name: type(layer).__name__ for layer in layers}
    for scope in reversed(node_name.split("/")[:-1]):
        for name in (re.sub(r"_\d+$", "", scope), scope):
            if name in types:
                return f"layer `{name}` ({types[name]})"
    return f"node `{node_name}`"


def _stateful(layer: keras.Layer, path: str) -> Iterator[str]:
    """Yield expressions for the recurrent layers that keep their state, inside a model called `path`."""
    if getattr(layer, "stateful", False):
        yield path
    if "Model" in _keras_bases(layer):
        for inner in layer.layers:
            yield from _stateful(inner, f"{path}.get_layer({inner.name!r})")
    for name in ("forward_layer", "backward_layer"):
        if hasattr(layer, name):
            yield from _stateful(getattr(layer, name), f"{path}.{name}")


def _layer_fault(layer: keras.Layer) -> tuple[str, str] | None:
    """Return the problem of a layer and its remedy, or None."""
    bases = _keras_bases(layer)
    for name, remedy in _LAYERS.items():
        if name in bases:
            return f"{name} has no ONNX counterpart", remedy
    if bases.intersection(_RESIZERS):
        if layer.interpolation not in _GOOD_INTERPOLATIONS:
            return f"interpolation='{layer.interpolation}' becomes another operation", _RESIZE
        if getattr(layer, "antialias", False):
            return "antialias=True has no ONNX counterpart", _RESIZE
    if layer.compute_dtype in HALF:  # created after `computing_in_float32` had started
        return (
            f"{layer.compute_dtype} in a layer that its model made only when it was called",
            "Call the model once before the export: model(samples). If that is not enough, build it with "
            "keras.config.set_dtype_policy('float32') and copy the weights: copy.set_weights(model.get_weights()).",
        )
    return None


def _keras_bases(layer: keras.Layer) -> set[str]:
    return {base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("keras.")}


def _list_layers(layers: list[keras.Layer], problem: str, remedy: str) -> str:
    names = ", ".join(f"`{layer.name}` ({type(layer).__name__})" for layer in layers[:5])
    more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
    return f"{names}{more}: {problem}. {remedy}"


def all_nodes(graph_def: tf.compat.v1.GraphDef) -> list[tf.compat.v1.NodeDef]:
    """The nodes of a TensorFlow graph and of its functions."""
    return [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]
