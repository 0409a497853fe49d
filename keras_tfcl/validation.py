"""Checks of plain Python arguments, with one form of error: what was expected, what was received, what to do."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a real number; booleans do not count."""
    return isinstance(value, Real) and not isinstance(value, bool)


def positive_number(name: str, value: object, remedy: str) -> float:
    """Returns `value` as a float; raises ValueError unless it is a finite number above 0 (booleans are refused)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"`{name}` must be a positive finite number. Received: {name}={value!r}. {remedy}")
    return float(value)


def fraction(name: str, value: object, remedy: str) -> float:
    """Returns `value` as a float; raises ValueError unless 0 < value <= 1 (booleans are refused)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= 1:
        raise ValueError(f"`{name}` must be a number in (0, 1]. Received: {name}={value!r}. {remedy}")
    return float(value)


def positive_integer(name: str, value: object, remedy: str, least: int = 1) -> int:
    """Returns `value` as an int; raises ValueError unless it is a whole number of at least `least`, no boolean."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}. {remedy}")
    return int(value)
