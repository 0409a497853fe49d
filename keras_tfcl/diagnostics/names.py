"""What scalings are called in figures."""

from __future__ import annotations

from typing import Any

from keras_tfcl import scaling as scaling_module
from keras_tfcl.scaling import Arctanh, Temperature


def scaling_name(scaling: Any) -> str:
    """A short name of anything `scaling=` accepts.

    Example:

    >>> scaling_name(0.1), scaling_name("arctanh")
    ('temperature 0.1', 'arctanh, scale 2')
    """
    scaling = scaling_module.get(scaling)
    if isinstance(scaling, Temperature):
        return f"temperature {scaling.temperature:g}"
    if isinstance(scaling, Arctanh):
        return f"arctanh, scale {scaling.scale:g}"
    return type(scaling).__name__
