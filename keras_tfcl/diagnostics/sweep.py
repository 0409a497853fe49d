"""Trains one model for each temperature, and measures what the temperature did."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_tfcl.callbacks import knn_accuracy
from keras_tfcl.diagnostics.figures import new_axes
from keras_tfcl.diagnostics.similarities import similarity_profile
from keras_tfcl.diagnostics.spread import uniformity_tolerance
from keras_tfcl.diagnostics.table import Row, run_table
from keras_tfcl.losses import InfoNCE
from keras_tfcl.metrics import EffectiveRank
from keras_tfcl.models import ContrastiveModel, embed_instances, embed_views

TEMPERATURES = (0.07, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
NEAREST = 10
MOST_VIEWS = 2048  # instances of the similarity profile; its nearest negatives depend on their number


def embedding_figures(model: keras.Model, instances: Any, labels: Any = None) -> dict[str, float]:
    """What the loss did to embeddings: the numbers behind figures 4 to 8 of Wang and Liu, as one flat row.

    Args:
        model: a `ContrastiveModel` with an augmenter; its projections are measured.
        instances: array of held-out instances; the first 2,048 give the similarity profile.
        labels: integers, for the tolerance. Defaults to None.

    Returns:
        `uniformity`, `tolerance`, `effective_rank`, `positive` and `n1` to `n10` by name (fewer than ten for fewer than
        eleven instances).
    """
    embeddings = embed_instances(model, instances)
    spread = uniformity_tolerance(embeddings, labels)
    rank = EffectiveRank()
    rank.update_state(np.arange(len(embeddings)), embeddings)
    some = keras.tree.map_structure(lambda part: part[:MOST_VIEWS], instances)
    profile = similarity_profile(embed_views(model, some), NEAREST)
    figures = {
        "uniformity": spread.uniformity,
        "tolerance": spread.tolerance,
        "effective_rank": float(rank.result()),
        "positive": profile.positive,
        **{f"n{i + 1}": float(value) for i, value in enumerate(profile.nearest)},
    }
    return {name: round(value, 4) for name, value in figures.items()}


def temperature_sweep(
    make_model: Callable[[keras.losses.Loss], ContrastiveModel],
    x: Any,
    held_out: tuple[Any, Any],
    path: str | os.PathLike[str],
    temperatures: Sequence[float] = TEMPERATURES,
    seeds: Sequence[int] = (0,),
    epochs: int = 10,
    batch_size: int = 256,
) -> list[Row]:
    """Trains with InfoNCE at every temperature and seed; each run is a row of a CSV file and is never repeated.

    Stop it and call it again as you like: finished rows are read, not trained. All settings get their first seed before
    any gets its second.

    Args:
        make_model: function of a loss that gives a new `ContrastiveModel`, compiled with that loss, with an augmenter.
        x: instances to train on.
        held_out: `(instances, labels)` to measure on. The kNN accuracy classifies a random half of them by the 20
            nearest of the other half.
        path: of the CSV file.
        temperatures: positive numbers. Default to those of Wang and Liu, and some between.
        seeds: integers; each seeds Python, NumPy and TensorFlow. Defaults to 0 alone.
        epochs, batch_size: of `fit`.

    Returns:
        Rows with `setting` (the temperature), `seed`, `epochs`, `batch_size`, `instances`, `held_out` (their numbers),
        the columns of `embedding_figures`, `knn_accuracy` and `loss` (of the last epoch).

    Raises:
        ValueError: if the file was made with other epochs, batch size or numbers of instances; bad temperatures.
        ImportError: without scikit-learn.

    Reference: Wang and Liu 2021, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740.
    """
    losses = {f"{temperature:g}": InfoNCE(temperature) for temperature in temperatures}
    instances, labels = held_out
    labels = np.asarray(labels)
    known, asked = np.array_split(np.random.default_rng(0).permutation(len(labels)), 2)  # labels often come sorted

    def measure(setting: str, seed: int) -> dict[str, float]:
        keras.utils.set_random_seed(seed)
        model = make_model(losses[setting])
        fitted = model.fit(x, batch_size=batch_size, epochs=epochs, verbose=0)
        features = model.predict(instances, batch_size=batch_size, verbose=0)
        accuracy = knn_accuracy(features[known], labels[known], features[asked], labels[asked])
        figures = embedding_figures(model, instances, labels)
        return {**figures, "knn_accuracy": round(accuracy, 4), "loss": round(fitted.history["loss"][-1], 5)}

    rows = len(keras.tree.flatten(x)[0])
    constants = {"epochs": epochs, "batch_size": batch_size, "instances": rows, "held_out": len(labels)}
    return run_table(path, list(losses), seeds, measure, constants)


def plot_temperature_sweep(rows: Sequence[Row], column: str = "uniformity", axes: Any = None) -> Any:
    """Draws one column of a sweep against the temperature: the mean over seeds, with their range as a band.

    Args:
        rows: of `temperature_sweep`.
        column: such as `"uniformity"`, `"tolerance"` (figures 4 and 5 of Wang and Liu) or `"knn_accuracy"` (as 9).
        axes: matplotlib axes to draw on. Defaults to new ones.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
    """
    temperatures = sorted({float(row["setting"]) for row in rows})
    values = [[row[column] for row in rows if float(row["setting"]) == t] for t in temperatures]
    axes = new_axes(axes, "temperature", column.replace("_", " "), f"{column.replace('_', ' ')} by temperature")
    axes.plot(temperatures, [np.mean(own) for own in values], marker="o")
    axes.fill_between(temperatures, [min(own) for own in values], [max(own) for own in values], alpha=0.2)
    return axes
