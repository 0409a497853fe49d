"""The demo's plots: training curves, a map of the embeddings, queries with their nearest neighbours."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator
from sklearn.manifold import TSNE

from keras_tfcl.data.images import ImageData

NAMES = ("training", "map", "neighbours")


def write_all(
    folder: Path,
    history: dict[str, list],
    baselines: dict[str, float],
    data: ImageData,
    train: np.ndarray,
    test: np.ndarray,
) -> None:
    """Writes training.png, map.png and neighbours.png to `folder`."""
    figures = (training(history, baselines), embedding_map(data, test), neighbours(data, train, test))
    for name, figure in zip(NAMES, figures, strict=True):
        figure.savefig(folder / f"{name}.png", dpi=120)
        plt.close(figure)


def training(history: dict[str, list], baselines: dict[str, float]) -> plt.Figure:
    """Loss and kNN accuracy by epoch, with what raw pixels and the untrained encoder reach."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    epochs = np.arange(1, len(history["loss"]) + 1)
    left.plot(epochs, history["loss"], marker="o")
    left.set(xlabel="epoch", ylabel="loss (nats)", title="Contrastive loss")
    right.plot(epochs, history["knn_accuracy"], marker="o", label="encoder")
    for (name, value), style in zip(baselines.items(), ("--", ":"), strict=True):
        right.axhline(value, linestyle=style, color="grey", label=name)
    right.set(xlabel="epoch", ylabel="share of held-out images", title="kNN accuracy, 20 neighbours")
    right.legend(loc="center right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def embedding_map(data: ImageData, test: np.ndarray, most: int = 2000) -> plt.Figure:
    """The held-out embeddings in two dimensions, coloured by class (which training never saw)."""
    points = TSNE(metric="cosine", init="pca", random_state=0).fit_transform(test[:most])
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    colours = plt.get_cmap("tab10" if len(data.class_names) <= 10 else "nipy_spectral")
    for label, name in enumerate(data.class_names):
        chosen = points[data.test_labels[:most] == label]
        shade = label if len(data.class_names) <= 10 else label / len(data.class_names)
        axes.scatter(*chosen.T, s=8, color=colours(shade), label=name)
    axes.set(xticks=[], yticks=[], title=f"{data.name}: held-out embeddings (t-SNE, cosine)")
    if len(data.class_names) <= 20:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2)
    return figure


def neighbours(data: ImageData, train: np.ndarray, test: np.ndarray, queries: int = 5, count: int = 8) -> plt.Figure:
    """Held-out images of different classes, each with its nearest training images; a red frame: another class."""
    classes = np.unique(data.test_labels)[:: max(1, len(np.unique(data.test_labels)) // queries)][:queries]
    rows = [int(np.flatnonzero(data.test_labels == label)[0]) for label in classes]
    size = (1.3 * (count + 1), 1.45 * len(rows) + 0.5)
    figure, axes = plt.subplots(len(rows), count + 1, figsize=size, squeeze=False, layout="constrained")
    for line, row in zip(axes, rows, strict=True):
        cosines = train @ test[row]
        show(line[0], data.test_images[row], "query: " + data.class_names[data.test_labels[row]], "black")
        for cell, nearest in zip(line[1:], np.argsort(-cosines)[:count], strict=True):
            same = data.train_labels[nearest] == data.test_labels[row]
            show(cell, data.train_images[nearest], f"{cosines[nearest]:.3f}", "seagreen" if same else "red")
    figure.suptitle(
        "Held-out queries and their nearest training images, with cosines (green: same class, red: another)"
    )
    return figure


def show(axes: plt.Axes, image: np.ndarray, title: str, colour: str) -> None:
    axes.imshow(image.squeeze(), cmap="gray" if image.shape[-1] == 1 else None, vmin=0, vmax=255)
    axes.set_title(title, fontsize=8)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2)
