"""What the report and the advice look at: a model's embeddings of some instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_tfcl.models import ContrastiveModel, embed_instances, embed_views
from keras_tfcl.validation import positive_integer

ROWS = 1024


@dataclass(frozen=True)
class Measured:
    """Embeddings of the same N instances.

    Attributes:
        seen: `(N, D)`, unaltered, as the loss sees them.
        views: `(N, 2, D)`, of two random views, as the loss sees them.
        features: `(N, F)`, unaltered, the encoder's output: what is used after training.
        labels: `(N,)`, or None.
        scaling: of the model's loss, or None.
        supervised: whether the loss draws the instances of a class together.
    """

    seen: np.ndarray
    views: np.ndarray
    features: np.ndarray
    labels: np.ndarray | None
    scaling: Any
    supervised: bool

    @property
    def finite(self) -> bool:
        """Whether there is no NaN or Inf."""
        return all(bool(np.isfinite(part).all()) for part in (self.seen, self.views, self.features))


def measure(model: keras.Model, data: Any, augmenter: Any = None, rows: int = ROWS) -> Measured:
    """Embeds at most `rows` instances, drawn with a fixed seed.

    Args:
        model: a `ContrastiveModel`, or any model whose output is the embedding.
        data: instances, or `(instances, labels)`.
        augmenter: makes views of instances. Defaults to the model's.
        rows: most instances. Defaults to 1024.

    Returns:
        `Measured`.

    Raises:
        ValueError: without an augmenter, for views, fewer than two instances or another number of labels.
    """
    instances, labels = data if isinstance(data, tuple) else (data, None)
    labels = None if labels is None else np.asarray(labels).reshape(-1)
    augmenter = augmenter or getattr(model, "augmenter", None)
    _check(instances, labels, augmenter)
    count = len(keras.tree.flatten(instances)[0])
    # Left in random order: the kNN figure halves them, and data often come sorted by class.
    chosen = np.random.default_rng(0).permutation(count)[: positive_integer("rows", rows, "Use rows=1024.", least=2)]
    instances = keras.tree.map_structure(lambda part: np.asarray(part)[chosen], instances)
    seen = embed_instances(model, instances)
    is_ours = isinstance(model, ContrastiveModel)
    return Measured(
        seen=seen,
        views=embed_views(model, instances, augmenter),
        features=np.asarray(model.predict(instances, batch_size=256, verbose=0)) if is_ours else seen,
        labels=None if labels is None else labels[chosen],
        scaling=getattr(getattr(model, "loss", None), "scaling", None),
        supervised=getattr(model, "supervised", False),
    )


def _check(instances: Any, labels: np.ndarray | None, augmenter: Any) -> None:
    if isinstance(instances, tuple):
        raise ValueError(
            "`data` must be instances, or (instances, labels): unaltered instances of one encoder. Received: a tuple "
            f"of {len(instances)} as the instances. Of a model with several encoders look at one: "
            "model.encoders[0], with an augmenter for its instances."
        )
    if augmenter is None:
        raise ValueError(
            "Views of each instance must be made. Received: a model without augmenter, and none beside it. Pass "
            "`augmenter=`, for example keras_tfcl.layers.image_augmenter('photos', image_shape)."
        )
    count = len(keras.tree.flatten(instances)[0])
    if count < 2 or (labels is not None and len(labels) != count):
        given = "no labels" if labels is None else f"{len(labels)} labels"
        raise ValueError(
            "`data` must be at least two instances, or a pair (instances, labels) with one label each. "
            f"Received: {count} instances and {given}. Use some hundreds of held-out instances, and class numbers "
            "as labels (of one-hot rows: labels.argmax(axis=1))."
        )
