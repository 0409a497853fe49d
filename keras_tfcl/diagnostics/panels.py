"""The figures of the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_tfcl.diagnostics.cosines import cosine_histogram, plot_cosine_histogram
from keras_tfcl.diagnostics.figures import new_axes
from keras_tfcl.diagnostics.gradients import gradient_profile, plot_gradient_profile
from keras_tfcl.diagnostics.measured import Measured
from keras_tfcl.diagnostics.names import scaling_name
from keras_tfcl.diagnostics.page import Panel
from keras_tfcl.diagnostics.penalty import penalty_curves, plot_relative_penalty
from keras_tfcl.diagnostics.rows import unit_rows
from keras_tfcl.diagnostics.similarities import plot_similarity_profile, similarity_profile
from keras_tfcl.diagnostics.spectrum import plot_singular_spectrum, singular_spectrum
from keras_tfcl.diagnostics.spread import plot_uniformity_tolerance, uniformity_tolerance


def panels_of(measured: Measured) -> list[Panel]:
    """All panels; those of embeddings only if the embeddings are finite."""
    embeddings = _of_embeddings(measured) if measured.finite else []
    return [*embeddings, *_of_loss(measured)]


def _of_embeddings(measured: Measured) -> list[Panel]:
    labelled = [] if measured.labels is None else [_spread(measured)]
    return [
        *labelled,
        Panel(
            "Positives and negatives",
            "Healthy: two hills, positives on the right. One hill at 1: collapsed.",
            plot_cosine_histogram(cosine_histogram(measured.views)),
        ),
        Panel(
            "Positive and nearest negatives",
            "The gap between the first two points is what tells an instance from its nearest neighbours.",
            plot_similarity_profile({"this model": similarity_profile(measured.views)}),
        ),
        Panel(
            "Directions in use",
            "Healthy: a gentle slope. A cliff: the embeddings use only the directions before it.",
            plot_singular_spectrum(singular_spectrum(measured.seen)),
        ),
        Panel(
            "Map of the encoder's features",
            "The two directions of largest variance; colours are classes, where labels were given.",
            _plot_map(measured),
        ),
    ]


def _spread(measured: Measured) -> Panel:
    spread = uniformity_tolerance(measured.seen, measured.labels)
    return Panel(
        "Uniformity and tolerance",
        "Good embeddings are far to the right and not at the bottom; a collapse is at the top left.",
        plot_uniformity_tolerance({"this model": spread}, measured.seen.shape[1]),
    )


def _of_loss(measured: Measured) -> list[Panel]:
    own = [] if measured.scaling is None else [measured.scaling]
    negatives = 2 * len(measured.views) - 2
    return [
        Panel(
            "Relative penalty",
            "How the repulsion is shared among negatives by their cosine; steep: only the nearest count.",
            plot_relative_penalty(penalty_curves(_each_once([*own, 0.07, 0.3, 1.0]))),
        ),
        Panel(
            "Gradient on the way to alignment",
            f"With {negatives} negatives opposite to the positive: where a curve has fallen, the loss teaches no more.",
            plot_gradient_profile(gradient_profile(_each_once([*own, 0.1, 0.5, "arctanh"]), negatives)),
        ),
    ]


def _each_once(scalings: list) -> list:
    return list({scaling_name(scaling): scaling for scaling in scalings}.values())


def _plot_map(measured: Measured) -> Any:
    axes = new_axes(None, "first direction", "second direction", "Map of the encoder's features")
    rows = unit_rows(measured.features.reshape(len(measured.features), -1))
    centred = rows - rows.mean(axis=0)
    points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T  # (N, 2), or (N, 1) for one feature
    style = {"s": 8}
    if measured.labels is not None:
        style |= {"c": np.unique(measured.labels, return_inverse=True)[1], "cmap": "tab10"}
    axes.scatter(points[:, 0], points[:, -1], **style)
    return axes
