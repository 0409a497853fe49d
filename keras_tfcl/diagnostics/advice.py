"""Suggests which loss to try next, from the embeddings of the current loss."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl.diagnostics.embeddings import MAX_SAMPLES, ModelEmbeddings, model_embeddings
from keras_tfcl.diagnostics.geometry import Spread, uniformity_tolerance
from keras_tfcl.evaluation import Diagnosis, Health, diagnose, embedding_health, uniform_sphere
from keras_tfcl.scaling import Arctanh, Scaling
from keras_tfcl.typing import Augmenter, Structure

CLUSTERED = 0.75  # of the uniform sphere's uniformity; Wang and Liu's table has 0.75 at temperature 1
UNIFORM = 0.95  # the same table has 0.98 at temperature 0.07, where accuracy fell


@dataclass(frozen=True)
class Suggestion:
    """A suggestion, and its reasons.

    Attributes:
        text: a sentence that says what to try, with the numbers behind it.
        losses: Python expressions of losses worth a run, the best first; empty if the loss is not the problem.
        health: of the embeddings.
        spread: of the embeddings.
        uniform: the uniformity of uniformly distributed embeddings of this size.
        diagnoses: problems of the embeddings.
    """

    text: str
    losses: tuple[str, ...]
    health: Health
    spread: Spread
    uniform: float
    diagnoses: tuple[Diagnosis, ...]


def suggest_loss(
    model: keras.Model,
    data: Structure | tuple[Structure, ArrayLike],
    augmenter: Augmenter | None = None,
    max_samples: int = MAX_SAMPLES,
) -> Suggestion:
    """Evaluates a trained model's embeddings and suggests which loss to try next, with the numbers behind it.

    The rules follow Wang and Liu's findings. Embeddings that are far from uniform need a smaller temperature or hard
    negatives. Embeddings that are almost uniform leave no room for semantic neighbours and need a larger temperature,
    or hard negatives with it. In between the loss is kept. Diagnoses come first: no loss helps against weak
    augmentations, copies in the data or NaN. The result is a suggestion for the next run and not a search; for that,
    use `temperature_sweep`.

    Args:
        model: a `ContrastiveModel`, or an encoder with `augmenter`. Its loss, if compiled, is taken into account.
        data: samples, or `(samples, labels)` with integer labels `(N,)` for the tolerance.
        augmenter: a function that makes views of samples. Defaults to the model's.
        max_samples: largest number of samples, drawn with a fixed seed. Defaults to 1024.

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
    return suggestion_from(model_embeddings(model, data, augmenter, max_samples))


def suggestion_from(embeddings: ModelEmbeddings) -> Suggestion:
    """The rules of `suggest_loss`, for embeddings that were computed before."""
    health = embedding_health(embeddings.views, embeddings.scaling, embeddings.unaltered)
    diagnoses = diagnose(health, embeddings.supervised)
    uniform = uniform_sphere(health.dimension)
    if not health.finite:
        return _of_diagnoses(health, Spread(float("nan"), float("nan"), health.samples), uniform, diagnoses)
    spread = uniformity_tolerance(embeddings.unaltered, embeddings.labels)
    if any(diagnosis.name != "temperature too small" for diagnosis in diagnoses):
        return _of_diagnoses(health, spread, uniform, diagnoses)
    share = spread.uniformity / uniform
    numbers = f"Uniformity is {spread.uniformity:.2f}, {share:.0%} of the {uniform:.2f} of a uniform distribution"
    if np.isfinite(spread.tolerance):
        numbers += f"; the mean cosine within a class is {spread.tolerance:.2f}"
    if diagnoses:  # "temperature too small"; all others returned above
        losses = _scaled(embeddings.scaling, 2.0)
        advice = "One negative has most of the gradient: try a larger temperature."
    elif share < CLUSTERED:
        losses = [*_scaled(embeddings.scaling, 0.5), _hard(embeddings.scaling)]
        advice = (
            "Embeddings stay in clusters, which suits tasks whose classes are these clusters. To separate samples "
            "better, train longer, or try a smaller temperature, or hard negatives at the same temperature."
        )
    elif share > UNIFORM:
        losses = [*_scaled(embeddings.scaling, 2.0), "HardNegativeInfoNCE(1.0, alpha=0.1)"]
        advice = "There is little room left for semantic neighbours: try a larger temperature, or hard negatives at 1."
    else:
        losses, advice = [], "This is the range where the paper's accuracies were best: keep the loss."
    return Suggestion(f"{numbers}. {advice}", tuple(losses), health, spread, uniform, tuple(diagnoses))


def _of_diagnoses(health: Health, spread: Spread, uniform: float, diagnoses: list[Diagnosis]) -> Suggestion:
    text = "Another loss is not the first thing to try. " + " ".join(str(diagnosis) for diagnosis in diagnoses)
    return Suggestion(text, (), health, spread, uniform, tuple(diagnoses))


def _temperature(scaling: Scaling | None) -> float:
    """The current temperature of a scaling that has one, fixed, scheduled or learned; otherwise the usual 0.2."""
    return float(np.asarray(getattr(scaling, "temperature", 0.2)))


def _scaled(scaling: Scaling | None, factor: float) -> list[str]:
    """The loss with `factor` times the temperature, from 0.05 to 1; none if the current one is already beyond that.

    An arctanh's scale is an inverse temperature at cosine 0.
    """
    if isinstance(scaling, Arctanh):
        return [f"ArctanhInfoNCE(scale={scaling.scale / factor:.3g})"]
    now = _temperature(scaling)
    other = min(1.0, max(0.05, now * factor))
    return [f"InfoNCE({other:.3g})"] if (other > now) == (factor > 1) and other != now else []


def _hard(scaling: Scaling | None) -> str:
    if isinstance(scaling, Arctanh):
        return f"ContrastiveLoss(Arctanh({scaling.scale:.3g}), HardNegatives(alpha=0.1))"
    return f"HardNegativeInfoNCE({_temperature(scaling):.3g}, alpha=0.1)"
