from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.typing import LabelledData, Logs, Structure
from keras_tfcl.validation import positive_integer


class LabelledEvaluation(keras.callbacks.Callback):
    """Base class of callbacks that log the accuracy of a simple classifier on the embeddings of labelled data.

    A subclass computes the accuracy in `score`. See `KNNEvaluation` for the arguments.
    """

    def __init__(self, train: LabelledData, val: LabelledData, batch_size: int, every: int, name: str) -> None:
        super().__init__()
        self.batch_size = positive_integer("batch_size", batch_size, "Use batch_size=256.")
        self.every = positive_integer("every", every, "Use every=1 to evaluate after each epoch.")
        self.name = name
        self.train_x, self.train_labels = labelled_set("train", train)
        self.val_x, self.val_labels = labelled_set("val", val)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        count = len(getattr(self.model, "encoders", (self.model,)))
        if count > 1:
            raise ValueError(
                f"`{type(self).__name__}` evaluates one encoder. Received: a model of {count}. Embed with one of them, "
                "model.encoders[0].predict(x), and call keras_tfcl.evaluation.knn_accuracy or linear_accuracy."
            )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if (epoch + 1) % self.every == 0 and logs is not None:
            logs[self.name] = self.evaluate()

    def evaluate(self) -> float:
        """The accuracy of the current model."""
        train, val = (self.model.predict(x, self.batch_size, verbose=0) for x in (self.train_x, self.val_x))
        return self.score(train, val)

    def score(self, train_embeddings: np.ndarray, val_embeddings: np.ndarray) -> float:
        """The accuracy of these embeddings of `train` and `val`."""
        raise NotImplementedError(f"{type(self).__name__} must define `score(train_embeddings, val_embeddings)`.")


def labelled_set(name: str, data: object) -> tuple[Structure, np.ndarray]:
    """Checks `(x, labels)`; a dataset is read into arrays once, so that shuffling cannot separate x from its labels."""
    if isinstance(data, tf.data.Dataset):
        data = _read(name, data)
    if not isinstance(data, (tuple, list)) or len(data) != 2 or data[1] is None:
        raise ValueError(
            f"`{name}` must be a pair (x, labels), or a tf.data.Dataset of (x, labels) batches. "
            f"Received: {type(data).__name__}. Use for example {name}=(images, labels)."
        )
    x = np.asarray(data[0]) if isinstance(data[0], list) else data[0]
    labels = np.asarray(data[1]).reshape(-1)
    sizes = {int(part.shape[0]) for part in keras.tree.flatten(x)}
    if sizes != {len(labels)} or len(labels) == 0:
        raise ValueError(
            f"`{name}` must have as many labels as samples, at least one. "
            f"Received: {sorted(sizes)} samples and {len(labels)} labels. Pass one integer label for each sample."
        )
    return x, labels


def _read(name: str, dataset: tf.data.Dataset) -> tuple[Structure, np.ndarray]:
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(
            f"`{name}` must be a tf.data.Dataset of (x, labels) batches. Received: elements of {spec}. Map it to pairs."
        )
    if spec[1].shape.rank == 0:
        raise ValueError(f"`{name}` must come in batches. Received: single elements, {spec}. Add .batch(256).")
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"`{name}` must be finite. Received: an infinite dataset. Remove repeat(), or use take(n).")
    batches = list(dataset.as_numpy_iterator())
    if not batches:
        raise ValueError(f"`{name}` must have at least one sample. Received: an empty dataset. Check its source.")
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
