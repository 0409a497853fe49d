"""Watches embeddings while they are trained, and says in plain words when something is wrong."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np

from keras_tfcl.callbacks.faults import Fault, find_faults
from keras_tfcl.callbacks.health import Health, embedding_health
from keras_tfcl.models import embed_instances, embed_views
from keras_tfcl.models.embedding import check_views_can_be_made
from keras_tfcl.validation import positive_integer

LOGGED = ("effective_rank", "positive_cosine", "negative_cosine", "saturated", "hardest_share")


class CollapseWarning(UserWarning):
    """What `CollapseMonitor` warns of."""


class CollapseMonitor(keras.callbacks.Callback):
    """Measures the health of the embeddings after epochs, logs it, and warns of faults with a remedy.

    Logs `effective_rank`, `positive_cosine`, `negative_cosine`, `saturated` and `hardest_share` (see `Health`), which
    `keras.callbacks.TensorBoard`, `CSVLogger` and `EarlyStopping` see if they stand behind this one in the list. A
    fault (see `find_faults`) is warned of once, when it first appears, and again if it comes back after it was gone.
    Images outside the `value_range` of a `keras_tfcl.ImageAugmenter` are the only fault then: `"pixel range"`.
    `monitor.health` and `monitor.faults` keep the latest state.

    Args:
        x: instances to watch, an array or structure of arrays, not trained on for best; or a tuple of two arrays:
            ready-made views of each instance. A tuple is always read as views.
        rows: most instances that are used, the first ones. Defaults to 1024.
        augmenter: makes a view of a batch of instances. Defaults to the augmenter of the `ContrastiveModel`.
        every: epochs from one look to the next; the first follows epoch number `every`. Defaults to 1.
        batch_size: rows to embed at a time. Defaults to 256.

    Raises:
        ValueError: for fewer than two instances, numbers below 1; when training starts, if there is nothing to make
            views with.

    Example:

    >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    >>> model = keras_tfcl.ContrastiveModel(encoder, augmenter=keras.layers.GaussianNoise(0.5))
    >>> model.compile("adam", keras_tfcl.InfoNCE(0.5))
    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> monitor = keras_tfcl.CollapseMonitor(x)
    >>> history = model.fit(x, batch_size=32, verbose=0, callbacks=[monitor]).history
    >>> history["effective_rank"][0] > 4, monitor.faults
    (True, [])

    References: Roy and Vetterli 2007 (effective rank); Jing et al. 2022, "Understanding Dimensional Collapse in
    Contrastive Self-supervised Learning", arXiv 2110.09348.
    """

    def __init__(self, x: Any, rows: int = 1024, augmenter: Any = None, every: int = 1, batch_size: int = 256) -> None:
        super().__init__()
        rows = positive_integer("rows", rows, "Use rows=1024.")
        self.every = positive_integer("every", every, "Use every=1 to look after each epoch.")
        self.batch_size = positive_integer("batch_size", batch_size, "Use batch_size=256.")
        self.augmenter = augmenter
        self.x = keras.tree.map_structure(lambda part: part[:rows], x)
        self.health: Health | None = None
        self.faults: list[Fault] = []
        if len(keras.tree.flatten(self.x)[0]) < 2:
            raise ValueError("`x` must hold at least two instances. Received: fewer. Use some hundreds.")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        check_views_can_be_made(self.model, self.x, self.augmenter)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        known = {fault.name for fault in self.faults}
        self.look()
        if logs is not None:
            figures = {name: getattr(self.health, name) for name in LOGGED}
            logs.update({name: value for name, value in figures.items() if not np.isnan(value)})
        for fault in self.faults:
            if fault.name not in known:
                warnings.warn(f"After epoch {epoch + 1}: {fault}", CollapseWarning, stacklevel=2)

    def look(self) -> list[Fault]:
        """Measures the model as it is now; returns the faults."""
        ready_made = isinstance(self.x, tuple)
        views = embed_views(self.model, self.x, self.augmenter, batch_size=self.batch_size)
        unaltered = None if ready_made else embed_instances(self.model, self.x, self.batch_size)
        scaling = getattr(getattr(self.model, "loss", None), "scaling", None)
        self.health = embedding_health(views, scaling, unaltered)
        self.faults = find_faults(self.health, getattr(self.model, "supervised", False))
        check_range = getattr(self.augmenter or getattr(self.model, "augmenter", None), "check_range", None)
        problem = None if ready_made or check_range is None else check_range(self.x)
        if problem is not None:  # then no other figure means anything
            self.faults = [Fault("pixel range", problem, "Mend this before anything else.")]
        return self.faults
