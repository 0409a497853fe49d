"""A model's embeddings of some samples, as the report and the advice read them."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl import evaluation
from keras_tfcl.models import ContrastiveModel
from keras_tfcl.scaling import Scaling
from keras_tfcl.scaling.resolve import scaling_of
from keras_tfcl.typing import Augmenter, Structure
from keras_tfcl.validation import positive_integer

MAX_SAMPLES = 1024


@dataclass(frozen=True)
class ModelEmbeddings:
    """Embeddings of the same N samples.

    Attributes:
        unaltered: `(N, D)`, without augmentation, as the loss sees them.
        views: `(N, 2, D)`, of two random views, as the loss sees them.
        features: `(N, F)`, without augmentation, the encoder's output, which is used after training.
        labels: `(N,)`, or None.
        scaling: of the model's loss, or None.
        supervised: whether the loss attracts the samples of a class.
    """

    unaltered: np.ndarray
    views: np.ndarray
    features: np.ndarray
    labels: np.ndarray | None
    scaling: Scaling | None
    supervised: bool

    @property
    def finite(self) -> bool:
        """Whether there is no NaN or Inf."""
        return all(bool(np.isfinite(part).all()) for part in (self.unaltered, self.views, self.features))


def model_embeddings(
    model: keras.Model,
    data: Structure | tuple[Structure, ArrayLike],
    augmenter: Augmenter | None = None,
    max_samples: int = MAX_SAMPLES,
) -> ModelEmbeddings:
    """Embeds at most `max_samples` samples, drawn with a fixed seed.

    Args:
        model: a `ContrastiveModel`, or any model whose output is the embedding.
        data: samples, or `(samples, labels)`.
        augmenter: a function that makes views of samples. Defaults to the model's.
        max_samples: largest number of samples. Defaults to 1024.

    Raises:
        ValueError: without an augmenter, for views, fewer than two samples or another number of labels.
    """
    x, labels = data if isinstance(data, tuple) else (data, None)
    labels = None if labels is None else np.asarray(labels).reshape(-1)
    augmenter = augmenter or getattr(model, "augmenter", None)
    _check(x, labels, augmenter)
    limit = positive_integer("max_samples", max_samples, "Use max_samples=1024.", least=2)
    # The random order stays: the kNN accuracy halves the samples, and data often come sorted by class.
    chosen = np.random.default_rng(0).permutation(len(keras.tree.flatten(x)[0]))[:limit]
    x = keras.tree.map_structure(lambda part: np.asarray(part)[chosen], x)
    unaltered = evaluation.embed(model, x)
    has_projector = isinstance(model, ContrastiveModel)
    return ModelEmbeddings(
        unaltered=unaltered,
        views=evaluation.embed_views(model, x, augmenter),
        features=np.asarray(model.predict(x, batch_size=256, verbose=0)) if has_projector else unaltered,
        labels=None if labels is None else labels[chosen],
        scaling=scaling_of(model),
        supervised=getattr(model, "supervised", False),
    )


def _check(x: Structure, labels: np.ndarray | None, augmenter: Augmenter | None) -> None:
    if isinstance(x, tuple):
        raise ValueError(
            "`data` must be samples, or (samples, labels): unaltered samples of one encoder. Received: a tuple of "
            f"{len(x)} as the samples. Of a model with several encoders pass one, model.encoders[0], with an augmenter "
            "for its samples."
        )
    if augmenter is None:
        raise ValueError(
            "`augmenter` must make views of the samples. Received: None, and a model without an augmenter. Pass "
            "`augmenter=`, for example keras_tfcl.layers.image_augmenter('photos', image_shape)."
        )
    count = len(keras.tree.flatten(x)[0])
    if count < 2 or (labels is not None and len(labels) != count):
        given = "no labels" if labels is None else f"{len(labels)} labels"
        raise ValueError(
            "`data` must be at least two samples, or a pair (samples, labels) with one label for each. Received: "
            f"{count} samples and {given}. Pass some hundreds of held-out samples, with class indices as labels (of "
            "one-hot labels: labels.argmax(axis=1))."
        )
