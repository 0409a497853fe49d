"""The gradient of a loss from opposite positives to perfect alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from keras_tfcl import scaling as scaling_module
from keras_tfcl.diagnostics.plots import new_axes, scaling_name
from keras_tfcl.ops.info_nce import info_nce_from_logits
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.scaling import Arctanh, Scaling, Temperature
from keras_tfcl.validation import positive_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class GradientProfile:
    """The derivative of a loss along one path from the worst to the best arrangement.

    Attributes:
        label: of the scaling.
        negatives: M.
        similarity: `(P,)`, x: the positive's cosine is x, every negative's is -x.
        gradient: `(P,)`, dL/dx by automatic differentiation of this library's loss.
        closed_form: `(P,)`, dL/dx by its formula; None for scalings without one here.
    """

    label: str
    negatives: int
    similarity: np.ndarray
    gradient: np.ndarray
    closed_form: np.ndarray | None


def gradient_profile(
    scalings: Sequence[float | str | Scaling] = (0.05, 0.1, 0.25, 0.5, 1.0, "arctanh"),
    negatives: int = 1,
    points: int = 201,
) -> list[GradientProfile]:
    """Computes the derivative of the loss for a positive of cosine x and M negatives of cosine -x, for x from -1 to 1.

    With logits l the loss is `log(1 + M e^(l(-x) - l(x)))`. The gradient of a small temperature vanishes long before
    the positive is aligned; the gradient of a large one is not zero even at perfect alignment. The gradient of arctanh
    with scale 2 is zero exactly at x = 1. Formulas, with `q = (1 - x) / (1 + x)`:

        temperature t:     -(2 / t) e / (1 + e),  e = M exp(-2 x / t)
        arctanh, scale c:  -(2 c / (1 - x^2)) M q^c / (1 + M q^c)

    Args:
        scalings: temperatures, `"arctanh"`, or `keras_tfcl.Scaling`s.
        negatives: M, at least 1. Defaults to 1.
        points: number of cosines, uniformly spaced and without -1 and 1 themselves. Defaults to 201.

    Returns:
        A list of `GradientProfile`. Within about 1e-4 of the poles the library's guarded arctanh differs from its
        formula.

    Raises:
        ValueError: for an unknown scaling or numbers out of range.

    Example:

    >>> profile, = keras_tfcl.diagnostics.gradient_profile([0.5], points=3)
    >>> profile.similarity, profile.gradient.round(3)
    (array([-0.5,  0. ,  0.5]), array([-3.523, -2.   , -0.477]))

    Reference: Kim and Kim 2025, "Temperature-Free Loss Function for Contrastive Learning", arXiv 2501.17683, whose
    argument it follows; the formulas are derived here.
    """
    negatives = positive_integer("negatives", negatives, "Use negatives=1, or as many as a batch has.")
    points = positive_integer("points", points, "Use points=201.")
    x = np.linspace(-1, 1, points + 2)[1:-1]
    return [
        GradientProfile(
            scaling_name(scaling), negatives, x, _by_tape(x, scaling, negatives), _by_formula(x, scaling, negatives)
        )
        for scaling in scalings
    ]


def plot_gradient_profile(profiles: Sequence[GradientProfile], axes: Axes | None = None) -> Axes:
    """Draws `gradient_profile`s on `axes`, or on new axes, and returns them.

    Lines show the size of the gradient by automatic differentiation, dots the formula.

    Example:

    >>> profiles = keras_tfcl.diagnostics.gradient_profile([0.1, "arctanh"])
    >>> keras_tfcl.diagnostics.plot_gradient_profile(profiles).figure.savefig("gradients.png")
    """
    label = "cosine x of the positive (negatives: -x)"
    axes = new_axes(axes, label, "size of dL/dx (nats per unit of cosine)", "Gradient on the way to alignment")
    for profile in profiles:
        (line,) = axes.plot(profile.similarity, -profile.gradient, label=profile.label)
        if profile.closed_form is not None:
            some = slice(None, None, max(1, len(profile.similarity) // 20))
            axes.plot(profile.similarity[some], -profile.closed_form[some], ".", color=line.get_color())
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-6)
    axes.legend()
    return axes


def _by_tape(x: np.ndarray, scaling: float | str | Scaling, negatives: int) -> np.ndarray:
    cosine = tf.constant(x, "float64")
    is_positive = np.arange(negatives + 1) == 0
    pairs = Pairs(*(np.broadcast_to(mask, (len(x), negatives + 1)) for mask in (is_positive, ~is_positive)))
    with tf.GradientTape() as tape:
        tape.watch(cosine)
        cosines = tf.where(is_positive, cosine[:, None], -cosine[:, None])  # (P, 1 + M)
        losses = info_nce_from_logits(scaling_module.get(scaling)(cosines), pairs).loss
    return tape.gradient(losses, cosine).numpy()


def _by_formula(x: np.ndarray, scaling: float | str | Scaling, negatives: int) -> np.ndarray | None:
    scaling = scaling_module.get(scaling)
    if type(scaling) is Temperature:
        t = scaling.temperature
        return -(2 / t) / (1 + np.exp(2 * x / t) / negatives)
    if type(scaling) is Arctanh:
        c = scaling.scale
        return -(2 * c / (1 - x**2)) / (1 + ((1 + x) / (1 - x)) ** c / negatives)
    return None
