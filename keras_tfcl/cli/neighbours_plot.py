"""Images beside their nearest neighbours, in one PNG file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_tfcl.atomic_write import atomic_write
from keras_tfcl.evaluation.checks import unit_vectors


def draw_neighbours(
    images: np.ndarray, embeddings: Mapping[str, np.ndarray], path: Path, queries: int = 6, k: int = 6
) -> None:
    """Draws a row for each of some images: the image, and those nearest to it with their cosines.

    Args:
        images: `(N, H, W, C)`, values 0..255.
        embeddings: `(N, D)` each, with the title under which their neighbours are drawn, side by side.
        path: of the PNG file.
        queries: number of rows, from all over the images.
        k: number of neighbours in a row.
    """
    from matplotlib.figure import Figure

    chosen = np.linspace(0, len(images) - 1, min(queries, len(images))).astype(int)
    k = min(k, len(images) - 1)
    figure = Figure(figsize=((k + 1) * len(embeddings), 1.15 * len(chosen) + 0.3), layout="constrained")
    parts = figure.subfigures(1, len(embeddings), squeeze=False)[0]
    for part, (title, embedded) in zip(parts, embeddings.items(), strict=True):
        part.suptitle(title)
        axes = part.subplots(len(chosen), k + 1, squeeze=False)
        for row, query in enumerate(chosen):
            shown = [(query, "query"), *((i, f"{cosine:.2f}") for i, cosine in nearest(embedded, query, k))]
            for axis, (i, name) in zip(axes[row], shown, strict=True):
                axis.imshow(images[i].astype("uint8"))
                axis.set_title(name, fontsize=8)
                axis.axis("off")
    with atomic_write(path) as draft:
        figure.savefig(draft, format="png", dpi=100)


def nearest(embeddings: np.ndarray, query: int, k: int) -> list[tuple[int, float]]:
    """The k nearest neighbours of a sample, with their cosines, the nearest first."""
    unit = unit_vectors(embeddings)
    cosines = unit @ unit[query]
    cosines[query] = -np.inf
    return [(int(i), float(cosines[i])) for i in np.argsort(-cosines)[:k]]
