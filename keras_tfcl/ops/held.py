"""The layers and variables that an object holds, at any depth."""

from __future__ import annotations

from collections.abc import Mapping

import keras

# Objects of these packages are values, or too large to search; none of them holds a layer that a loss would train.
_NOT_SEARCHED = ("builtins", "numpy", "tensorflow", "types")


def layers_and_variables(value: object) -> list[keras.Layer | keras.Variable]:
    """Each layer and each variable outside of layers once, from outside to inside, in the order of the attributes."""
    return _search(value, set())


def variables_of(value: object) -> list[keras.Variable]:
    """The variables that an object holds, itself or in layers, each once."""
    parts = layers_and_variables(value)
    variables = [v for part in parts for v in (part.variables if isinstance(part, keras.Layer) else [part])]
    return list({id(variable): variable for variable in variables}.values())


def _search(value: object, seen: set[int]) -> list[object]:
    """Layers and variables in a value, from outside to inside."""
    if id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, (keras.Layer, keras.Variable)):
        return [value]
    return [found for part in _parts(value) for found in _search(part, seen)]


def _parts(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, type) or type(value).__module__.split(".")[0] in _NOT_SEARCHED:
        return []
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
