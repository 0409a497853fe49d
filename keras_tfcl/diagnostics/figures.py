"""Where the plots are drawn; matplotlib is imported only when one is."""

from __future__ import annotations

from typing import Any


def new_axes(axes: Any, x_label: str, y_label: str, title: str) -> Any:
    """Labels `axes`, or new ones on a figure of their own (no window is opened).

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
