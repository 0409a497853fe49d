"""Images beside their nearest neighbours, in one PNG file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_tfcl.evaluation.checks import unit_vectors


def draw_neighbours(images: np.ndarray, embeddings: np.ndarray, path: Path, queries: int = 6, k: int = 6) -> None:
    """Draws a row for each of some images: the image, and those nearest to it with their cosines.

    Args:
        images: `(N, H, W, C)`, values 0..255.
        embeddings: `(N, D)`.
        path: of the PNG file.
        queries: number of rows, from all over the images.
        k: number of neighbours in a row.
    """
    from matplotlib.figure import Figure

    unit = unit_vectors(embeddings)
    chosen = np.linspace(0, len(images) - 1, min(queries, len(images))).astype(int)
    cosines = unit[chosen] @ unit.T  # (queries, N)
    cosines[np.arange(len(chosen)), chosen] = -np.inf
    nearest = np.argsort(-cosines, axis=1)[:, : min(k, len(images) - 1)]
    figure = Figure(figsize=(1.5 * (nearest.shape[1] + 1), 1.6 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), nearest.shape[1] + 1, squeeze=False)
    for row, query in enumerate(chosen):
        shown = [(query, "query"), *((i, f"{cosines[row, i]:.2f}") for i in nearest[row])]
        for axis, (i, title) in zip(axes[row], shown, strict=True):
            axis.imshow(images[i].astype("uint8"))
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    figure.savefig(path, format="png", dpi=100)
