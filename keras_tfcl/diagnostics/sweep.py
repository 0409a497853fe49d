"""Trains one model for each temperature, and records its effects."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl import evaluation
from keras_tfcl.diagnostics.geometry import uniformity_tolerance
from keras_tfcl.diagnostics.plots import new_axes
from keras_tfcl.diagnostics.similarities import similarity_profile
from keras_tfcl.diagnostics.table import Row, run_table
from keras_tfcl.losses import InfoNCE
from keras_tfcl.models import ContrastiveModel
from keras_tfcl.typing import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPERATURES = (0.07, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
NEAREST = 10
PROFILE_SAMPLES = 2048  # the nearest negatives of the similarity profile depend on their number


def embedding_statistics(model: keras.Model, x: Structure, labels: ArrayLike | None = None) -> dict[str, float]:
    """Computes the statistics of figures 4 to 8 of Wang and Liu, as one flat row.

    Args:
        model: a `ContrastiveModel` with an augmenter, whose projections are evaluated.
        x: held-out samples; the first 2,048 give the similarity profile.
        labels: `(N,)`, for the tolerance. Defaults to None.

    Returns:
        `uniformity`, `tolerance`, `effective_rank`, `positive` and `n1` to `n10` by name (fewer than ten for fewer than
        eleven samples).

    Example:

    >>> model = keras_tfcl.ContrastiveModel(keras.layers.Dense(8), augmenter=keras.layers.GaussianNoise(0.1))
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> list(keras_tfcl.diagnostics.embedding_statistics(model, x))[:5]
    ['uniformity', 'tolerance', 'effective_rank', 'positive', 'n1']
    """
    embeddings = evaluation.embed(model, x)
    spread = uniformity_tolerance(embeddings, labels)
    first = keras.tree.map_structure(lambda part: part[:PROFILE_SAMPLES], x)
    profile = similarity_profile(evaluation.embed_views(model, first), NEAREST)
    statistics = {
        "uniformity": spread.uniformity,
        "tolerance": spread.tolerance,
        "effective_rank": float(evaluation.effective_rank(embeddings)),
        "positive": profile.positive,
        **{f"n{i + 1}": float(value) for i, value in enumerate(profile.nearest)},
    }
    return {name: round(value, 4) for name, value in statistics.items()}


def temperature_sweep(
    make_model: Callable[[keras.losses.Loss], ContrastiveModel],
    x: Structure,
    held_out: tuple[Structure, ArrayLike],
    path: str | os.PathLike[str],
    temperatures: Sequence[float] = TEMPERATURES,
    seeds: Sequence[int] = (0,),
    epochs: int = 10,
    batch_size: int = 256,
) -> list[Row]:
    """Trains with InfoNCE at every temperature and seed; each run is a row of a CSV file and is never repeated.

    The sweep can be stopped and called again at any time: finished rows are read, not trained. The first seed of all
    temperatures comes before the second of any.

    Args:
        make_model: function from a loss to a new `ContrastiveModel`, compiled with that loss, with an augmenter.
        x: samples to train on.
        held_out: `(samples, labels)` to evaluate on. The kNN accuracy classifies a random half of them by the 20
            nearest of the other half.
        path: of the CSV file.
        temperatures: positive numbers. Default to the values of Wang and Liu, and some between.
        seeds: integers; each seeds Python, NumPy and TensorFlow. Defaults to 0 only.
        epochs: of `fit`. Defaults to 10.
        batch_size: of `fit`. Defaults to 256.

    Returns:
        Rows with `setting` (the temperature), `seed`, `epochs`, `batch_size`, `samples`, `held_out` (their numbers),
        the columns of `embedding_statistics`, `knn_accuracy` and `loss` (of the last epoch).

    Raises:
        ValueError: if the file was made with other epochs, another batch size or other numbers of samples; for
            temperatures that are not positive.
        ImportError: without scikit-learn.

    Example:

    >>> def make_model(loss):
    ...     model = keras_tfcl.ContrastiveModel(keras.layers.Dense(8), augmenter=keras.layers.GaussianNoise(0.1))
    ...     model.compile("adam", loss)
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> held_out = x, np.arange(64) % 2
    >>> rows = keras_tfcl.diagnostics.temperature_sweep(
    ...     make_model, x, held_out, "sweep.csv", temperatures=[0.1], epochs=1, batch_size=64
    ... )
    >>> rows[0]["setting"]
    '0.1'

    Reference: Wang and Liu 2021, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740.
    """
    losses = {f"{temperature:g}": InfoNCE(temperature) for temperature in temperatures}
    held_out_x, labels = held_out
    labels = np.asarray(labels)
    train, query = np.array_split(np.random.default_rng(0).permutation(len(labels)), 2)  # labels often come sorted

    def run(setting: str, seed: int) -> dict[str, float]:
        keras.utils.set_random_seed(seed)
        model = make_model(losses[setting])
        fitted = model.fit(x, batch_size=batch_size, epochs=epochs, verbose=0)
        features = model.predict(held_out_x, batch_size=batch_size, verbose=0)
        accuracy = evaluation.knn_accuracy(features[train], labels[train], features[query], labels[query])
        statistics = embedding_statistics(model, held_out_x, labels)
        return {**statistics, "knn_accuracy": round(accuracy, 4), "loss": round(fitted.history["loss"][-1], 5)}

    samples = len(keras.tree.flatten(x)[0])
    constants = {"epochs": epochs, "batch_size": batch_size, "samples": samples, "held_out": len(labels)}
    return run_table(path, list(losses), seeds, run, constants)


def plot_temperature_sweep(rows: Sequence[Row], column: str = "uniformity", axes: Axes | None = None) -> Axes:
    """Draws one column of a sweep against the temperature on `axes`, or on new axes, and returns them.

    The line is the mean over seeds, the band their range. `column` is `"uniformity"` or `"tolerance"` (figures 4 and 5
    of Wang and Liu), `"knn_accuracy"` (as figure 9), or any other column of `temperature_sweep`.

    Example:

    >>> rows = [{"setting": 0.1, "seed": 0, "uniformity": 3.1}, {"setting": 1.0, "seed": 0, "uniformity": 1.2}]
    >>> keras_tfcl.diagnostics.plot_temperature_sweep(rows).figure.savefig("sweep.png")
    """
    temperatures = sorted({float(row["setting"]) for row in rows})
    by_seed = [[row[column] for row in rows if float(row["setting"]) == t] for t in temperatures]
    axes = new_axes(axes, "temperature", column.replace("_", " "), f"{column.replace('_', ' ')} by temperature")
    axes.plot(temperatures, [np.mean(values) for values in by_seed], marker="o")
    axes.fill_between(temperatures, [min(values) for values in by_seed], [max(values) for values in by_seed], alpha=0.2)
    return axes
