from __future__ import annotations

import math
import warnings

import keras

from keras_tfcl import evaluation
from keras_tfcl._keras_compat import nested_layers
from keras_tfcl.evaluation.embedding import check_views_can_be_made
from keras_tfcl.scaling.resolve import scaling_of
from keras_tfcl.typing import Augmenter, Logs, Structure
from keras_tfcl.validation import positive_integer

LOGGED = ("effective_rank", "positive_cosine", "negative_cosine", "saturated", "hardest_share")


class CollapseWarning(UserWarning):
    """The category of the warnings of `CollapseMonitor`."""


class CollapseMonitor(keras.callbacks.Callback):
    """Computes the health of the embeddings after epochs, logs it, and warns of problems with a remedy.

    It logs `effective_rank`, `positive_cosine`, `negative_cosine`, `saturated` and `hardest_share` (see
    `keras_tfcl.evaluation.Health`). `keras.callbacks.TensorBoard`, `CSVLogger` and `EarlyStopping` see them if they
    come after this callback in the list. It warns when a diagnosis (see `keras_tfcl.evaluation.diagnose`) first
    appears, and again if it reappears after it was gone. `monitor.health` and `monitor.diagnoses` hold the latest
    state. A model with batch normalisation is checked in training mode too, so that averages which lag behind are told
    apart from a collapse.

    Args:
        x: samples to check, an array or structure of arrays, preferably held out; or a tuple of two arrays, which is
            always read as ready-made views of each sample.
        max_samples: largest number of samples to use, from the first one on. Defaults to 1024.
        augmenter: a function that makes one view of each sample of a batch. Defaults to the augmenter of the
            `ContrastiveModel`.
        every: number of epochs between checks; the first check is after epoch number `every`. Defaults to 1.
        batch_size: number of samples to embed at a time. Defaults to 32.

    Raises:
        ValueError: for fewer than two samples or numbers below 1; when training starts, if there is no
            augmenter.

    Example:

    >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    >>> model = keras_tfcl.ContrastiveModel(encoder, augmenter=keras.layers.GaussianNoise(0.5))
    >>> model.compile("adam", keras_tfcl.InfoNCE(0.5))
    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> monitor = keras_tfcl.CollapseMonitor(x)
    >>> history = model.fit(x, batch_size=32, verbose=0, callbacks=[monitor]).history
    >>> history["effective_rank"][0] > 4, monitor.diagnoses
    (True, [])

    References: Roy and Vetterli 2007 (effective rank); Jing et al. 2022, "Understanding Dimensional Collapse in
    Contrastive Self-supervised Learning", arXiv 2110.09348.
    """

    def __init__(
        self,
        x: Structure,
        max_samples: int = 1024,
        augmenter: Augmenter | None = None,
        every: int = 1,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        max_samples = positive_integer("max_samples", max_samples, "Use max_samples=1024.")
        self.every = positive_integer("every", every, "Use every=1 to check after each epoch.")
        self.batch_size = positive_integer("batch_size", batch_size, "Use batch_size=32.")
        self.augmenter = augmenter
        self.x = keras.tree.map_structure(lambda part: part[:max_samples], x)
        self.health: evaluation.Health | None = None
        self.diagnoses: list[evaluation.Diagnosis] = []
        count = len(keras.tree.flatten(self.x)[0])
        if count < 2:
            raise ValueError(f"`x` must hold at least two samples. Received: {count}. Pass some hundreds.")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        check_views_can_be_made(self.model, self.x, self.augmenter)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        before = {diagnosis.name for diagnosis in self.diagnoses}
        self.check()
        if logs is not None:
            statistics = {name: getattr(self.health, name) for name in LOGGED}
            logs.update({name: value for name, value in statistics.items() if not math.isnan(value)})
        for diagnosis in self.diagnoses:
            if diagnosis.name not in before:
                warnings.warn(f"After epoch {epoch + 1}: {diagnosis}", CollapseWarning, stacklevel=2)

    def check(self) -> list[evaluation.Diagnosis]:
        """Checks the current model and returns the diagnoses."""
        views = evaluation.embed_views(self.model, self.x, self.augmenter, batch_size=self.batch_size)
        ready_made = isinstance(self.x, tuple)
        unaltered = None if ready_made else evaluation.embed(self.model, self.x, self.batch_size)
        supervised = getattr(self.model, "supervised", False)
        self.health = evaluation.embedding_health(views, scaling_of(self.model), unaltered)
        in_training = None
        if any(isinstance(layer, keras.layers.BatchNormalization) for layer in nested_layers(self.model)):
            views = evaluation.embed_views(
                self.model, self.x, self.augmenter, batch_size=self.batch_size, training=True
            )
            in_training = evaluation.embedding_health(views)
        self.diagnoses = evaluation.diagnose(self.health, supervised, self._range_problem(), in_training)
        return self.diagnoses

    def _range_problem(self) -> str | None:
        augmenter = self.augmenter or getattr(self.model, "augmenter", None)
        check_range = getattr(augmenter, "check_range", None)  # of keras_tfcl.ImageAugmenter
        return None if check_range is None or isinstance(self.x, tuple) else check_range(self.x)
