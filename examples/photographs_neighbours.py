"""Draws nearest neighbours before and after training, from a run of photographs.py.

    python examples/photographs_neighbours.py --data cifar10_jpeg

A row is a held-out image, the first of its class, and the five nearest of the other held-out images: by the untrained
net, and by the last embeddings of the run. The classes are known to neither; a frame is green for an image of the same
class. Writes results/photographs_DATA_neighbours.png beside this script. Needs the extras tf, evaluation and plots.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from keras_tfcl.evaluation.neighbours import nearest_neighbours

HERE = Path(__file__).resolve().parent
GREEN, RED, WHITE = (40, 160, 60), (205, 60, 50), (255, 255, 255)
COUNT, SCALE, FRAME = 5, 2, 3


def main() -> None:
    parser = argparse.ArgumentParser(description="Nearest neighbours before and after training.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--run", default="keras_tfcl_InfoNCE")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--runs", type=Path, default=Path("runs/photographs"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    folder = f"{Path(options.data).name}_{options.image_size}_{{}}_{options.epochs}_0"
    with np.load(options.runs / folder.format("raw_pixels") / "0.npz") as arrays:
        pixels, labels = arrays["test"].astype("uint8"), arrays["test_labels"]
    images = pixels.reshape(len(pixels), options.image_size, options.image_size, 3)
    chosen = np.unique(labels, return_index=True)[1][: options.rows]
    run = options.runs / folder.format(options.run)
    last = max(int(file.stem) for file in run.glob("[0-9]*.npz"))
    parts = [mosaic(images, labels, chosen, run / f"{epoch}.npz") for epoch in (0, last)]
    queries = np.concatenate([tile(images[i], WHITE) for i in chosen])
    gap = np.full((len(queries), images.shape[1] // 2, 3), 255, "uint8")
    drawn = np.concatenate([queries, gap, parts[0], gap, parts[1]], axis=1)
    figure = Figure(figsize=(drawn.shape[1] / 100, drawn.shape[0] / 100 + 0.3), layout="constrained")
    axis = figure.subplots()
    axis.imshow(drawn)
    axis.axis("off")
    side = len(queries) / len(chosen)
    for start, title in (
        (0, "image"),
        (1.25 * side, "nearest before training"),
        (6.5 * side, f"nearest after {last} epochs without labels"),
    ):
        axis.text(start, -4, title, fontsize=9, va="bottom")
    path = options.results / f"photographs_{Path(options.data).name}_neighbours.png"
    figure.savefig(path, dpi=100)
    print(path)


def mosaic(images: np.ndarray, labels: np.ndarray, chosen: np.ndarray, file: Path) -> np.ndarray:
    """The nearest neighbours of the chosen images, a row for each."""
    with np.load(file) as arrays:
        features = arrays["test"].astype("float32")
    rows = []
    for query in chosen:
        order = np.r_[query, np.delete(np.arange(len(features)), query)]  # the query first
        near = order[nearest_neighbours(features[order], 1, COUNT)[0]]
        rows.append(np.concatenate([tile(images[i], GREEN if labels[i] == labels[query] else RED) for i in near], 1))
    return np.concatenate(rows)


def tile(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """An image, enlarged, in a frame, on white."""
    large = image.repeat(SCALE, 0).repeat(SCALE, 1)
    framed = np.full((large.shape[0] + 2 * FRAME, large.shape[1] + 2 * FRAME, 3), color, "uint8")
    framed[FRAME:-FRAME, FRAME:-FRAME] = large
    return np.pad(framed, ((2, 2), (2, 2), (0, 0)), constant_values=255)


if __name__ == "__main__":
    main()
