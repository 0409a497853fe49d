"""A page about the health of an encoder: verdict, advice, statistics and figures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl import evaluation
from keras_tfcl.atomic_write import write_atomically
from keras_tfcl.diagnostics.advice import Suggestion, suggestion_from
from keras_tfcl.diagnostics.embeddings import MAX_SAMPLES, ModelEmbeddings, model_embeddings
from keras_tfcl.diagnostics.geometry import (
    plot_singular_spectrum,
    plot_uniformity_tolerance,
    singular_spectrum,
    uniformity_tolerance,
)
from keras_tfcl.diagnostics.gradients import gradient_profile, plot_gradient_profile
from keras_tfcl.diagnostics.page import Panel, Statistic, page
from keras_tfcl.diagnostics.penalty import penalty_curves, plot_relative_penalty
from keras_tfcl.diagnostics.plots import new_axes, scaling_name
from keras_tfcl.diagnostics.similarities import (
    cosine_histogram,
    plot_cosine_histogram,
    plot_similarity_profile,
    similarity_profile,
)
from keras_tfcl.evaluation.checks import unit_vectors
from keras_tfcl.typing import Augmenter, Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from keras_tfcl.scaling import Scaling

COLOURS = {"Healthy": "#2e7d32", "Needs attention": "#b26a00", "Collapsed": "#b71c1c", "Diverged": "#b71c1c"}


def write_report(
    model: keras.Model,
    data: Structure | tuple[Structure, ArrayLike],
    path: str | os.PathLike[str],
    augmenter: Augmenter | None = None,
    title: str | None = None,
    max_samples: int = MAX_SAMPLES,
) -> str:
    """Writes one self-contained HTML page about a model's embeddings: a verdict, statistics and figures.

    Args:
        model: a `ContrastiveModel`, or any model whose output is the embedding.
        data: held-out samples, or `(samples, labels)`.
        path: of the page, which is replaced as a whole.
        augmenter: a function that makes views of samples. Defaults to the model's.
        title: heading of the page. Defaults to the model's name.
        max_samples: largest number of samples, drawn with a fixed seed. Defaults to 1024.

    Returns:
        The verdict: `"Healthy"`, `"Needs attention"`, `"Collapsed"` or `"Diverged"`.

    Raises:
        ValueError: without an augmenter, for fewer than two samples or another number of labels.
        ImportError: without matplotlib; with labels also without scikit-learn.

    Example:

    >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    >>> x = np.random.default_rng(0).normal(size=(128, 8)).astype("float32")
    >>> keras_tfcl.diagnostics.write_report(encoder, x, "report.html", augmenter=keras.layers.GaussianNoise(0.3))
    'Healthy'
    """
    embeddings = model_embeddings(model, data, augmenter, max_samples)
    suggestion = suggestion_from(embeddings)
    verdict = verdict_of(suggestion)
    panels = [*(_embedding_panels(embeddings) if embeddings.finite else []), *_loss_panels(embeddings)]
    text = page(
        title or f"Embeddings of {model.name}",
        verdict,
        COLOURS[verdict],
        _sentences(suggestion),
        _statistics(suggestion, embeddings),
        panels,
    )
    write_atomically(path, text.encode(errors="backslashreplace"))
    return verdict


def verdict_of(suggestion: Suggestion) -> str:
    """The diagnoses in a word or two."""
    names = {diagnosis.name for diagnosis in suggestion.diagnoses}
    if "diverged" in names:
        return "Diverged"
    if names & {"collapse to a point", "dimensional collapse"}:
        return "Collapsed"
    return "Needs attention" if names else "Healthy"


def _sentences(suggestion: Suggestion) -> list[str]:
    losses = f"Worth a run: {', '.join(suggestion.losses)}." if suggestion.losses else ""
    said = suggestion.text.startswith("Another loss")  # the text repeats the diagnoses
    diagnoses = [] if said else [str(diagnosis) for diagnosis in suggestion.diagnoses]
    return [sentence for sentence in (*diagnoses, suggestion.text, losses) if sentence]


def _statistics(suggestion: Suggestion, embeddings: ModelEmbeddings) -> list[Statistic]:
    health, spread = suggestion.health, suggestion.spread
    largest = min(health.dimension, health.samples - 1)
    statistics = [
        Statistic("samples", str(health.samples), "each in two random views"),
        Statistic("effective rank", f"{health.effective_rank:.1f}", f"of {largest} possible dimensions in use"),
        Statistic("cosine of positives", f"{health.positive_cosine:.3f}", "1: the encoder sees equal views"),
        Statistic("cosine of negatives", f"{health.negative_cosine:.3f}", "near 0; near 1: collapsed to a point"),
        Statistic("uniformity", f"{spread.uniformity:.2f}", f"0: a point; {suggestion.uniform:.2f}: uniform"),
        Statistic("tolerance", f"{spread.tolerance:.3f}", "mean cosine within a class (nan: no labels)"),
        Statistic("saturated anchors", f"{health.saturated:.1%}", "their softmax rests on one candidate"),
        Statistic("nearest negative's share", f"{health.hardest_share:.1%}", "of the negatives' gradient"),
        Statistic("near-duplicates", f"{health.near_duplicates:.1%}", "samples that are in the data more than once"),
    ]
    if embeddings.labels is not None and embeddings.finite and len(embeddings.labels) >= 4:
        half, features, labels = len(embeddings.labels) // 2, embeddings.features, embeddings.labels
        accuracy = evaluation.knn_accuracy(features[:half], labels[:half], features[half:], labels[half:])
        how = "one half of the samples by 20 of the other half"
        statistics.append(Statistic("kNN accuracy", f"{accuracy:.3f}", how))
    return statistics


def _embedding_panels(embeddings: ModelEmbeddings) -> list[Panel]:
    panels = [
        Panel(
            "Positives and negatives",
            "Healthy: two hills, the positives on the right. One hill at 1: collapsed.",
            plot_cosine_histogram(cosine_histogram(embeddings.views)),
        ),
        Panel(
            "Positive and nearest negatives",
            "The gap between the first two points separates a sample from its nearest neighbours.",
            plot_similarity_profile({"this model": similarity_profile(embeddings.views)}),
        ),
        Panel(
            "Directions in use",
            "Healthy: a gentle slope. A cliff: the embeddings use only the directions before it.",
            plot_singular_spectrum(singular_spectrum(embeddings.unaltered)),
        ),
        Panel(
            "Map of the encoder's features",
            "The two directions of largest variance; colours are classes, where labels were given.",
            _plot_map(embeddings),
        ),
    ]
    if embeddings.labels is None:
        return panels
    spread = uniformity_tolerance(embeddings.unaltered, embeddings.labels)
    labelled = Panel(
        "Uniformity and tolerance",
        "Good embeddings are far to the right and not at the bottom; a collapse is at the top left.",
        plot_uniformity_tolerance({"this model": spread}, embeddings.unaltered.shape[1]),
    )
    return [labelled, *panels]


def _loss_panels(embeddings: ModelEmbeddings) -> list[Panel]:
    own = [] if embeddings.scaling is None else [embeddings.scaling]
    negatives = 2 * len(embeddings.views) - 2
    return [
        Panel(
            "Relative penalty",
            "How the repulsion is shared among negatives by their cosine; steep: only the nearest count.",
            plot_relative_penalty(penalty_curves(_distinct([*own, 0.07, 0.3, 1.0]))),
        ),
        Panel(
            "Gradient on the way to alignment",
            f"With {negatives} negatives opposite to the positive. Where a curve has fallen, nothing more is learned.",
            plot_gradient_profile(gradient_profile(_distinct([*own, 0.1, 0.5, "arctanh"]), negatives)),
        ),
    ]


def _distinct(scalings: list[float | str | Scaling]) -> list[float | str | Scaling]:
    return list({scaling_name(scaling): scaling for scaling in scalings}.values())


def _plot_map(embeddings: ModelEmbeddings) -> Axes:
    axes = new_axes(None, "first direction", "second direction", "Map of the encoder's features")
    unit = unit_vectors(embeddings.features.reshape(len(embeddings.features), -1))
    centred = unit - unit.mean(axis=0)
    points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T  # (N, 2), or (N, 1) for one feature
    classes = None if embeddings.labels is None else np.unique(embeddings.labels, return_inverse=True)[1]
    axes.scatter(points[:, 0], points[:, -1], s=8, c=classes, cmap=None if classes is None else "tab10")
    return axes
