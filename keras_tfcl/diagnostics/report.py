"""One page that tells whether an encoder is healthy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras

from keras_tfcl.callbacks import knn_accuracy
from keras_tfcl.diagnostics.advice import Suggestion, suggestion_from
from keras_tfcl.diagnostics.measured import ROWS, Measured, measure
from keras_tfcl.diagnostics.page import Measure, page
from keras_tfcl.diagnostics.panels import panels_of

COLOURS = {"Healthy": "#2e7d32", "Needs attention": "#b26a00", "Collapsed": "#b71c1c", "Diverged": "#b71c1c"}


def write_report(
    model: keras.Model,
    data: Any,
    path: str | os.PathLike[str],
    augmenter: Any = None,
    title: str | None = None,
    rows: int = ROWS,
) -> str:
    """Writes one self-contained HTML page about a model's embeddings: a verdict in plain words, figures, pictures.

    The page is written beside its place first and then renamed.

    Args:
        model: a `ContrastiveModel`, or any model whose output is the embedding.
        data: held-out instances, or `(instances, labels)`.
        path: of the page.
        augmenter: makes views of instances. Defaults to the model's.
        title: heading of the page. Defaults to the model's name.
        rows: most instances to look at, drawn with a fixed seed. Defaults to 1024.

    Returns:
        The verdict: `"Healthy"`, `"Needs attention"`, `"Collapsed"` or `"Diverged"`.

    Raises:
        ValueError: without an augmenter, for fewer than two instances or another number of labels.
        ImportError: without matplotlib; with labels also without scikit-learn.

    Example:

    >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    >>> x = np.random.default_rng(0).normal(size=(128, 8)).astype("float32")
    >>> keras_tfcl.diagnostics.write_report(encoder, x, "report.html", augmenter=keras.layers.GaussianNoise(0.3))
    'Healthy'
    """
    measured = measure(model, data, augmenter, rows)
    suggestion = suggestion_from(measured)
    verdict = verdict_of(suggestion)
    text = page(
        title or f"Embeddings of {model.name}",
        verdict,
        COLOURS[verdict],
        _sentences(suggestion),
        _measures(suggestion, measured),
        panels_of(measured),
    )
    _write(Path(path), text)
    return verdict


def verdict_of(suggestion: Suggestion) -> str:
    """The faults in a word or two."""
    names = {fault.name for fault in suggestion.faults}
    if "diverged" in names:
        return "Diverged"
    if names & {"collapse to a point", "dimensional collapse"}:
        return "Collapsed"
    return "Needs attention" if names else "Healthy"


def _sentences(suggestion: Suggestion) -> list[str]:
    losses = f"Worth a run: {', '.join(suggestion.losses)}." if suggestion.losses else ""
    faults = [] if suggestion.text.startswith("Another loss") else [str(fault) for fault in suggestion.faults]
    return [sentence for sentence in (*faults, suggestion.text, losses) if sentence]


def _measures(suggestion: Suggestion, measured: Measured) -> list[Measure]:
    health, spread = suggestion.health, suggestion.spread
    largest = min(health.dimension, health.rows - 1)
    measures = [
        Measure("instances", str(health.rows), "looked at, each in two random views"),
        Measure("effective rank", f"{health.effective_rank:.1f}", f"of {largest} possible dimensions in use"),
        Measure("cosine of positives", f"{health.positive_cosine:.3f}", "1: the views are equal to the encoder"),
        Measure("cosine of negatives", f"{health.negative_cosine:.3f}", "near 0; near 1: collapsed to a point"),
        Measure("uniformity", f"{spread.uniformity:.2f}", f"0: a point; {suggestion.even:.2f}: evenly spread"),
        Measure("tolerance", f"{spread.tolerance:.3f}", "mean cosine within a class (nan: no labels)"),
        Measure("saturated rows", f"{health.saturated:.1%}", "anchors whose softmax rests on one candidate"),
        Measure("nearest negative's share", f"{health.hardest_share:.1%}", "of the negatives' gradient"),
        Measure("copies", f"{health.twins:.1%}", "instances that are in the data more than once"),
    ]
    if measured.labels is not None and measured.finite and len(measured.labels) >= 4:
        measures.append(Measure("kNN accuracy", f"{_knn(measured):.3f}", "half the instances by 20 of the other half"))
    return measures


def _knn(measured: Measured) -> float:
    half = len(measured.labels) // 2
    features, labels = measured.features, measured.labels
    return knn_accuracy(features[:half], labels[:half], features[half:], labels[half:])


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
