"""Which scalings and choices of negatives the kernel can stream; the others take the dense form."""

from __future__ import annotations

from typing import Any

from keras_tfcl.ops.tiled.forms import ArctanhForm, TemperatureForm
from keras_tfcl.ops.tiled.negatives_form import NegativesForm
from keras_tfcl.validation import positive_number


def tile_forms(scaling: Any, negatives: Any) -> tuple[Any, NegativesForm] | None:
    """The kernel's forms of `scaling` and `negatives`, or None where one is of a kind it does not know.

    An object says what it is by its method `tile_form`. A subclass that overrides what the form describes (`__call__`,
    `keep`, `log_sum`), and not `tile_form`, is unknown.
    """
    form = _scaling_form(scaling)
    negatives_form = NegativesForm() if negatives == "all" else _form(negatives, ("keep", "log_sum"))
    return None if form is None or negatives_form is None else (form, negatives_form)


def _scaling_form(scaling: Any) -> Any:
    if callable(scaling):
        return _form(scaling, ("__call__", "call"))
    if scaling == "arctanh":
        return ArctanhForm(2.0)
    return TemperatureForm(1.0 / positive_number("scaling", scaling, "Or pass 'arctanh'."))


def _form(thing: Any, methods: tuple[str, ...]) -> Any:
    if not hasattr(thing, "tile_form"):
        return None
    described = min(_depth(thing, method) for method in methods)
    return thing.tile_form() if _depth(thing, "tile_form") <= described else None


def _depth(thing: Any, method: str) -> int:
    """How far up the class hierarchy a method is defined: 0 for the class itself."""
    classes = type(thing).__mro__
    return next((n for n, cls in enumerate(classes) if method in vars(cls)), len(classes))
