"""Draws nearest neighbours before and after training, from a run of photographs.py.

    python examples/photographs_neighbours.py --data cifar10_jpeg

A row is the first held-out image of a class, and the five nearest training images: by the untrained net, and by the
last embeddings of the run. Neither net knows the classes. A frame is green for an image of the same class; the titles
say how many neighbours of all held-out images are of the same class. Writes results/photographs_DATA_neighbours.png
beside this script. Needs the extras tf, evaluation and plots.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.neighbors import NearestNeighbors

HERE = Path(__file__).resolve().parent
GREEN, RED, WHITE = (40, 160, 60), (205, 60, 50), (255, 255, 255)
COUNT, SCALE = 5, 2
FRAME, TITLE = 3, 24  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description="Nearest neighbours before and after training.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--run", default="keras_tfcl_InfoNCE")
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs/photographs"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    folder = f"{Path(options.data).name}_{options.image_size}_{{}}_{options.epochs}_0"
    shape = (-1, options.image_size, options.image_size, 3)
    with np.load(options.runs / folder.format("raw_pixels") / "0.npz") as arrays:
        train, test = (arrays[name].astype("uint8").reshape(shape) for name in ("train", "test"))
        train_labels, test_labels = arrays["train_labels"], arrays["test_labels"]
    queries = np.unique(test_labels, return_index=True)[1][: options.rows]
    run = options.runs / folder.format(options.run)
    last = max(int(file.stem) for file in run.glob("[0-9]*.npz"))
    parts, titles = [np.concatenate([tile(test[query], WHITE) for query in queries])], ["image"]
    for epoch, title in ((0, "before training"), (last, f"after {last} epochs without labels")):
        near = nearest(run / f"{epoch}.npz")
        same = train_labels[near] == test_labels[:, None]
        rows = [
            np.concatenate([tile(train[i], GREEN if hit else RED) for i, hit in zip(near[q], same[q], strict=True)], 1)
            for q in queries
        ]
        parts.append(np.concatenate(rows))
        titles.append(f"nearest {title}: {100 * same.mean():.0f} % of its class")
    path = options.results / f"photographs_{Path(options.data).name}_neighbours.png"
    draw(parts, titles, path)
    print(path)


def nearest(file: Path) -> np.ndarray:
    """Indices of the training images that are nearest to each held-out image, by cosine."""
    with np.load(file) as arrays:
        train, test = (arrays[name].astype("float32") for name in ("train", "test"))
    return NearestNeighbors(n_neighbors=COUNT, metric="cosine").fit(train).kneighbors(test, return_distance=False)


def tile(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """An image, enlarged, in a frame, on white."""
    large = image.repeat(SCALE, 0).repeat(SCALE, 1)
    framed = np.full((large.shape[0] + 2 * FRAME, large.shape[1] + 2 * FRAME, 3), color, "uint8")
    framed[FRAME:-FRAME, FRAME:-FRAME] = large
    return np.pad(framed, ((2, 2), (2, 2), (0, 0)), constant_values=255)


def draw(parts: list[np.ndarray], titles: list[str], path: Path) -> None:
    """Draws the parts side by side, each below its title."""
    gap = np.full((len(parts[0]), parts[0].shape[1] // 4, 3), 255, "uint8")
    starts, drawn = [], []
    for part in parts:
        starts.append(sum(piece.shape[1] for piece in drawn))
        drawn += [part, gap]
    image = np.concatenate(drawn[:-1], axis=1)
    height, width = image.shape[:2]
    figure = Figure(figsize=(width / 100, (height + TITLE) / 100))
    axis = figure.add_axes((0, 0, 1, height / (height + TITLE)))
    axis.imshow(image)
    axis.axis("off")
    for start, title in zip(starts, titles, strict=True):
        axis.text(start, -5, title, fontsize=9, va="bottom")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
