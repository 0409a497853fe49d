"""Axes and legends of the plots; matplotlib is imported only when one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_tfcl import scaling as scaling_module
from keras_tfcl.scaling import Arctanh, Scaling, Temperature

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def new_axes(axes: Axes | None, x_label: str, y_label: str, title: str) -> Axes:
    """Labels `axes`, or new axes on a new figure; no window is opened.

    Raises:
        ImportError: without matplotlib.
    """
    if axes is None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError('Plots need matplotlib: pip install "keras-tfcl[plots]"') from error
        axes = Figure(figsize=(6, 4), layout="constrained").add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3)
    return axes


def scaling_name(scaling: float | str | Scaling) -> str:
    """A short name of anything that `scaling=` accepts, for legends.

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
