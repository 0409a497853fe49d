"""Which loss to try next, from the embeddings that the present one made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_tfcl.callbacks import Fault, Health, embedding_health, find_faults
from keras_tfcl.diagnostics.measured import ROWS, Measured, measure
from keras_tfcl.diagnostics.spread import Spread, uniform_sphere, uniformity_tolerance
from keras_tfcl.scaling import Arctanh

CLUSTERED = 0.75  # of the even sphere's uniformity; Wang and Liu's table has 0.75 at temperature 1
EVEN = 0.95  # the same table has 0.98 at temperature 0.07, where accuracy fell


@dataclass(frozen=True)
class Suggestion:
    """What to try, and why.

    Attributes:
        text: a sentence: what to try, with the figures that led to it.
        losses: Python expressions of losses worth a run, the first first; empty if the loss is not the matter.
        health: of the embeddings.
        spread: of the embeddings.
        even: the uniformity of evenly spread embeddings of this size.
        faults: what is wrong besides.
    """

    text: str
    losses: tuple[str, ...]
    health: Health
    spread: Spread
    even: float
    faults: tuple[Fault, ...]


def suggest_loss(model: keras.Model, data: Any, augmenter: Any = None, rows: int = ROWS) -> Suggestion:
    """Reads a trained model's embeddings and says what loss to try next, with the figures that led to it.

    The rules follow Wang and Liu's findings: embeddings far from even ask for a smaller temperature or hard negatives;
    embeddings that are all but even have no room for semantic neighbours and ask for a larger temperature, or for
    hard negatives with it; in between the loss is left alone. Faults come first: with too weak augmentations, copies in
    the data or NaN no loss helps. It is a suggestion for the next run and not a search: `temperature_sweep` decides.

    Args:
        model: a `ContrastiveModel`, or an encoder with `augmenter`. Its loss, if compiled, is taken into account.
        data: instances, or `(instances, labels)` with integer labels `(N,)` for the tolerance.
        augmenter: makes views of instances. Defaults to the model's.
        rows: most instances to look at, drawn with a fixed seed. Defaults to 1024.

    Returns:
        `Suggestion`.

    Raises:
        ValueError: without an augmenter.

    Example:

    >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    >>> x = np.random.default_rng(0).normal(size=(128, 8)).astype("float32")
    >>> suggestion = keras_tfcl.diagnostics.suggest_loss(encoder, x, augmenter=keras.layers.GaussianNoise(0.3))
    >>> suggestion.losses
    ()

    Reference: Wang and Liu 2021, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740.
    """
    return suggestion_from(measure(model, data, augmenter, rows))


def suggestion_from(measured: Measured) -> Suggestion:
    """The rules of `suggest_loss`, from embeddings that were made already."""
    health = embedding_health(measured.views, measured.scaling, measured.seen)
    faults = find_faults(health, measured.supervised)
    even = uniform_sphere(health.dimension)
    if not health.finite:
        return _of_faults(health, Spread(float("nan"), float("nan"), health.rows), even, faults)
    spread = uniformity_tolerance(measured.seen, measured.labels)
    if any(fault.name != "temperature too small" for fault in faults):
        return _of_faults(health, spread, even, faults)
    share = spread.uniformity / even
    figures = f"Uniformity is {spread.uniformity:.2f}, {share:.0%} of the {even:.2f} of evenly spread embeddings"
    if np.isfinite(spread.tolerance):
        figures += f"; the mean cosine within a class is {spread.tolerance:.2f}"
    if faults:  # "temperature too small", all others are dealt with
        losses = _scaled(measured.scaling, 2.0)
        advice = "One negative has most of the gradient, whatever the spread: try a larger temperature."
    elif share < CLUSTERED:
        losses = (*_scaled(measured.scaling, 0.5), _hard(measured.scaling))
        advice = (
            "Embeddings stay in clusters, which suits tasks whose classes are like them. To tell instances apart "
            "better, train longer, or try a smaller temperature, or hard negatives at the same one."
        )
    elif share > EVEN:
        losses = (*_scaled(measured.scaling, 2.0), "HardNegativeInfoNCE(1.0, alpha=0.1)")
        advice = "There is little room left for semantic neighbours: try a larger temperature, or hard negatives at 1."
    else:
        losses, advice = (), "Both are in the range where the paper's accuracies were best: keep the loss."
    return Suggestion(f"{figures}. {advice}", tuple(losses), health, spread, even, tuple(faults))


def _of_faults(health: Health, spread: Spread, even: float, faults: list[Fault]) -> Suggestion:
    text = "Another loss is not the first thing to try. " + " ".join(str(fault) for fault in faults)
    return Suggestion(text, (), health, spread, even, tuple(faults))


def _temperature(scaling: Any) -> float:
    """Of a scaling that has one, be it fixed, scheduled or learned, as it is now; else the usual 0.2."""
    return float(getattr(scaling, "temperature", 0.2))


def _scaled(scaling: Any, factor: float) -> list[str]:
    """The loss with `factor` times the temperature, from 0.05 to 1; none if the present one is beyond that already.

    An arctanh's scale is an inverse temperature at cosine 0.
    """
    if isinstance(scaling, Arctanh):
        return [f"ArctanhInfoNCE(scale={scaling.scale / factor:.3g})"]
    now = _temperature(scaling)
    other = min(1.0, max(0.05, now * factor))
    return [f"InfoNCE({other:.3g})"] if (other > now) == (factor > 1) and other != now else []


def _hard(scaling: Any) -> str:
    if isinstance(scaling, Arctanh):
        return "HardNegativeInfoNCE(None, alpha=0.1)"  # the temperature None is the arctanh with scale 2
    return f"HardNegativeInfoNCE({_temperature(scaling):.3g}, alpha=0.1)"
