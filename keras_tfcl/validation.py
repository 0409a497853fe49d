"""Checks of plain Python arguments, with one form of error: what was expected, what was received, what to do."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def positive_number(name: str, value: Any, remedy: str) -> float:
    """Returns `value` as a float; raises ValueError unless it is a finite number above 0 (booleans are refused)."""
    if not _is_real(value) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"`{name}` must be a positive finite number. Received: {name}={value!r}. {remedy}")
    return float(value)


def fraction(name: str, value: Any, remedy: str) -> float:
    """Returns `value` as a float; raises ValueError unless 0 < value <= 1."""
    if not _is_real(value) or not 0 < value <= 1:
        raise ValueError(f"`{name}` must be a number in (0, 1]. Received: {name}={value!r}. {remedy}")
    return float(value)


def positive_integer(name: str, value: Any, remedy: str, least: int = 1) -> int:
    """Returns `value` as an int; raises ValueError unless it is an integer of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}. {remedy}")
    return int(value)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
