"""Saves encoders and projectors that share layers, so that they still share them after loading.

Keras' file format writes a layer that two models share as two layers. The configuration therefore records which layers
are shared, and after loading the models are connected again through the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import keras

from keras_tfcl._keras_compat import inner_layers, nested_layers
from keras_tfcl.typing import Config

Address = list[int]  # number of a part, then of a layer in it, of a layer in that, ...
Part: TypeAlias = keras.Layer | Sequence[keras.Layer] | None


def serialize_parts(**parts: Part) -> Config:
    """Returns the configurations of layers, or tuples of layers, by name, and which layers they share.

    Raises:
        ValueError: if a layer is shared in a way that cannot be restored.
    """
    configs: Config = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
    shared = _find_shared(_flat(parts))
    return {**_without_sharing(configs), "shared_layers": shared} if shared else configs


def deserialize_parts(
    config: dict[str, Any], custom_objects: Mapping[str, object] | None, *names: str
) -> dict[str, Any]:
    """Returns a configuration in which layers, or tuples of layers, replace what `serialize_parts` wrote."""
    parts = {name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects) for name in names}
    shared = config.get("shared_layers", [])
    if shared:
        layers = _flat(parts)
        stand_ins = {id(_at(layers, again)): _at(layers, first) for first, again in shared}
        done: dict[int, keras.Layer] = {}
        wired = {id(layer): _wired_again(layer, stand_ins, done) for layer in layers}
        parts = {name: _map_layers(part, wired) for name, part in parts.items()}
    return {**{name: value for name, value in config.items() if name != "shared_layers"}, **parts}


def _find_shared(parts: list[keras.Layer]) -> list[tuple[Address, Address]]:
    """The first path of each shared layer, and its other paths."""
    first: dict[int, tuple[Address, keras.Layer | None]] = {}
    shared = []

    def visit(layer: keras.Layer, address: Address, owner: keras.Layer | None) -> None:
        # owner: the outermost layer around this one that is no Functional or Sequential model. Its constructor shares
        # layers inside it again.
        if isinstance(layer, keras.layers.InputLayer):
            return
        if id(layer) in first:
            before, owner_before = first[id(layer)]
            if owner is None:
                shared.append((before, address))
            elif owner is not owner_before:
                raise ValueError(
                    "Shared layers are saved where the models that share them are Functional or Sequential. Received: "
                    f"layer `{layer.name}` that is shared by `{owner.name}`, a {type(owner).__name__}. Save "
                    "model.save_weights('run.weights.h5') instead (ModelCheckpoint: save_weights_only=True), and load "
                    "it into a model that the same code has made."
                )
            return
        first[id(layer)] = address, owner
        inside = owner if owner is not None or _is_wired(layer) else layer
        for number, inner in enumerate(_inner(layer)):
            visit(inner, [*address, number], inside)

    for number, part in enumerate(parts):
        visit(part, [number], None)
    return shared


def _wired_again(layer: keras.Layer, stand_ins: dict[int, keras.Layer], done: dict[int, keras.Layer]) -> keras.Layer:
    """The layer or its replacement; a model that contains replaced layers is cloned."""
    if id(layer) in stand_ins:
        return _wired_again(stand_ins[id(layer)], stand_ins, done)
    if id(layer) not in done:
        has_stand_ins = any(id(part) in stand_ins for part in _everything_wired(layer))
        wire = partial(_wired_again, stand_ins=stand_ins, done=done)
        done[id(layer)] = _cloned(layer, wire) if has_stand_ins else layer
    return done[id(layer)]


def _cloned(model: keras.Model, wire: Callable[[keras.Layer], keras.Layer]) -> keras.Model:
    clone = keras.models.clone_model(model, clone_function=wire)
    if clone.trainable != model.trainable:  # which `clone_model` forgets; set on a model, it is set on all its layers
        flags = [(inner, inner.trainable) for inner in nested_layers(clone) if inner is not clone]
        clone.trainable = model.trainable
        for inner, flag in flags:
            inner.trainable = flag
    return clone


def _everything_wired(layer: keras.Layer) -> list[keras.Layer]:
    if not _is_wired(layer):
        return []
    return [part for inner in _inner(layer) for part in (inner, *_everything_wired(inner))]


def _is_wired(layer: keras.Layer) -> bool:
    """Whether a layer is a graph of layers that can be created again with others, and not a custom class."""
    return isinstance(layer, keras.Model) and type(layer).__name__ in {"Functional", "Sequential"}


def _inner(layer: keras.Layer) -> list[keras.Layer]:
    return layer.layers if _is_wired(layer) else inner_layers(layer)


def _at(parts: list[keras.Layer], address: Address) -> keras.Layer:
    layer = parts[address[0]]
    for number in address[1:]:
        layer = _inner(layer)[number]
    return layer


def _flat(parts: Mapping[str, Part]) -> list[keras.Layer]:
    groups = [part if isinstance(part, (list, tuple)) else [part] for part in parts.values()]
    return [layer for group in groups for layer in group if isinstance(layer, keras.Layer)]


def _map_layers(part: Part, wired: dict[int, keras.Layer]) -> Part:
    if isinstance(part, (list, tuple)):
        return tuple(_map_layers(layer, wired) for layer in part)
    return wired.get(id(part), part)


def _without_sharing(config: Any) -> Any:
    """A configuration without Keras' own marks of shared objects, which it sets on the second object only."""
    if isinstance(config, dict):
        return {key: _without_sharing(value) for key, value in config.items() if key != "shared_object_id"}
    if isinstance(config, (list, tuple)):
        return type(config)(_without_sharing(value) for value in config)
    return config
