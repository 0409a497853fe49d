"""Accuracy of a nearest-neighbour classifier on embeddings."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.validation import positive_integer


def knn_accuracy(train_embeddings: Any, train_labels: Any, val_embeddings: Any, val_labels: Any, k: int = 20) -> float:
    """Share of `val` rows whose label wins the vote of their k nearest `train` rows by cosine, in [0, 1].

    Each neighbour has one vote; of equal counts the smallest label wins. Nothing is trained, so the number judges the
    embeddings alone.

    Args:
        train_embeddings: `(N, D)` floats, need not be normalised; rows of higher rank are flattened.
        train_labels: `(N,)` or `(N, 1)` integers.
        val_embeddings: `(M, D)`.
        val_labels: `(M,)` or `(M, 1)` integers.
        k: number of neighbours, at least 1; capped at N. Defaults to 20.

    Returns:
        The accuracy.

    Raises:
        ValueError: for a `k` that is not an integer of at least 1, lengths or sizes that differ, empty sets, embeddings
            with NaN or Inf.
        ImportError: without scikit-learn.

    Example:

    >>> knn_accuracy([[1.0, 0.0], [0.0, 1.0]], [0, 1], [[5.0, 1.0], [1.0, 5.0]], [0, 1], k=1)
    1.0

    Reference: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    arXiv 1805.01978 (there with weighted votes).
    """
    neighbours, preprocessing = _scikit_learn()
    k = positive_integer("k", k, "Use k=20.")
    train, labels = _checked_rows("train", train_embeddings, train_labels)
    val, val_labels = _checked_rows("val", val_embeddings, val_labels)
    if train.shape[1] != val.shape[1]:
        raise ValueError(
            f"`train_embeddings` and `val_embeddings` must have equal sizes. Received: {train.shape[1]} and "
            f"{val.shape[1]}. Embed both with the same model."
        )
    # On unit rows the Euclidean order is the cosine order, and scikit-learn has a faster search for it.
    classifier = neighbours.KNeighborsClassifier(min(k, len(train)), algorithm="brute", metric="euclidean")
    classifier.fit(preprocessing.normalize(train), labels)
    return float(classifier.score(preprocessing.normalize(val), val_labels))


class KNNEvaluation(keras.callbacks.Callback):
    """Writes the kNN accuracy of the model's embeddings into the logs at the end of every `every`-th epoch.

    Embeds `train` and `val` with `model.predict` and calls `knn_accuracy`. Works with `ContrastiveModel` and with any
    encoder that was compiled with a loss, whether `fit` has validation data or not.

    The entry reaches `History` and the progress bar by itself, and every callback that stands **behind** this one in
    the list: put it before `EarlyStopping(monitor="knn_accuracy", mode="max")`, `ModelCheckpoint` and `CSVLogger`.
    With `every` above 1 the other epochs have no entry: `CSVLogger` then leaves the column out, since the first epoch
    fixes its columns, and `EarlyStopping` warns in them.

    Args:
        train: `(x, labels)` of arrays (x may be a tuple or dict of arrays), or a finite `tf.data.Dataset` of
            `(x, labels)` batches, which is read once, here. These are the neighbours.
        val: the same for the rows that are classified. Must be other instances than `train`.
        k: number of neighbours. Defaults to 20.
        batch_size: batch size of `predict`. Defaults to 256.
        every: epochs from one evaluation to the next; the first follows epoch number `every`. Defaults to 1.
        name: key in the logs. Defaults to `"knn_accuracy"`.

    Raises:
        ValueError: at construction, for sets that are empty, infinite or of unequal lengths, or for numbers below 1.
        ImportError: at construction, without scikit-learn.

    Example:

    >>> x, labels = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 4
    >>> encoder = keras.Sequential([keras.layers.Dense(16)])
    >>> encoder.compile("adam", "mse")
    >>> knn = KNNEvaluation((x[:48], labels[:48]), (x[48:], labels[48:]), k=5)
    >>> stop = keras.callbacks.EarlyStopping(monitor="knn_accuracy", mode="max", patience=3)
    >>> history = encoder.fit(x, np.zeros((64, 16)), epochs=2, verbose=0, callbacks=[knn, stop])
    >>> len(history.history["knn_accuracy"])
    2
    """

    def __init__(
        self,
        train: Any,
        val: Any,
        k: int = 20,
        batch_size: int = 256,
        every: int = 1,
        name: str = "knn_accuracy",
    ) -> None:
        super().__init__()
        _scikit_learn()
        self.k = positive_integer("k", k, "Use k=20.")
        self.batch_size = positive_integer("batch_size", batch_size, "Use batch_size=256.")
        self.every = positive_integer("every", every, "Use every=1 to evaluate after each epoch.")
        self.name = name
        self.train_x, self.train_labels = _labelled_set("train", train)
        self.val_x, self.val_labels = _labelled_set("val", val)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every == 0 and logs is not None:
            logs[self.name] = self.evaluate()

    def evaluate(self) -> float:
        """The kNN accuracy of the model as it is now."""
        train, val = (self.model.predict(x, self.batch_size, verbose=0) for x in (self.train_x, self.val_x))
        return knn_accuracy(train, self.train_labels, val, self.val_labels, self.k)


def _scikit_learn() -> tuple[Any, Any]:
    try:
        from sklearn import neighbors, preprocessing
    except ImportError as error:
        raise ImportError('kNN evaluation needs scikit-learn: pip install "keras-tfcl[evaluation]"') from error
    return neighbors, preprocessing


def _checked_rows(name: str, embeddings: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    rows, labels = np.asarray(embeddings).astype("float32"), np.asarray(labels).reshape(-1)
    if rows.ndim < 2 or len(rows) == 0 or len(rows) != len(labels):
        raise ValueError(
            f"`{name}_embeddings` must be (N, D) with N labels, N at least 1. Received: shape={rows.shape} "
            f"with {len(labels)} labels."
        )
    if not np.isfinite(rows).all():
        raise ValueError(
            f"`{name}_embeddings` must be finite. Received: NaN or Inf in {int((~np.isfinite(rows)).any(1).sum())} of "
            f"{len(rows)} rows. The training has diverged: lower the learning rate, or stop it with "
            "keras.callbacks.TerminateOnNaN()."
        )
    return rows.reshape(len(rows), -1), labels


def _labelled_set(name: str, data: Any) -> tuple[Any, np.ndarray]:
    """Checks `(x, labels)`; a dataset is read into arrays first, so that shuffling can't part x and labels."""
    if isinstance(data, tf.data.Dataset):
        data = _read(name, data)
    if not isinstance(data, (tuple, list)) or len(data) != 2 or data[1] is None:
        raise ValueError(
            f"`{name}` must be a pair (x, labels), or a tf.data.Dataset of (x, labels) batches. "
            f"Received: {type(data).__name__}. Use for example {name}=(images, labels)."
        )
    x, labels = data[0], np.asarray(data[1]).reshape(-1)
    sizes = {int(part.shape[0]) for part in keras.tree.flatten(x)}
    if sizes != {len(labels)} or len(labels) == 0:
        raise ValueError(
            f"`{name}` must have as many labels as instances, at least one. "
            f"Received: {sorted(sizes)} instances and {len(labels)} labels."
        )
    return x, labels


def _read(name: str, dataset: tf.data.Dataset) -> tuple[Any, np.ndarray]:
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(f"`{name}` must be a tf.data.Dataset of (x, labels) batches. Received: elements of {spec}.")
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError(f"`{name}` must be finite. Received: an infinite dataset. Leave out repeat(), or use take(n).")
    batches = list(dataset.as_numpy_iterator())
    if not batches:
        raise ValueError(f"`{name}` must have at least one instance. Received: an empty dataset.")
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
