"""Accuracy of a nearest-neighbour classifier on embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_tfcl.callbacks.labelled import LabelledEvaluation, check_equal_sizes, checked_rows
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
    train, labels = checked_rows("train", train_embeddings, train_labels)
    val, val_labels = checked_rows("val", val_embeddings, val_labels)
    check_equal_sizes(train, val)
    # On unit rows the Euclidean order is the cosine order, and scikit-learn has a faster search for it.
    classifier = neighbours.KNeighborsClassifier(min(k, len(train)), algorithm="brute", metric="euclidean")
    classifier.fit(preprocessing.normalize(train), labels)
    return float(classifier.score(preprocessing.normalize(val), val_labels))


class KNNEvaluation(LabelledEvaluation):
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
        ValueError: at construction, for sets that are empty, infinite, unbatched or of unequal lengths, or for numbers
            below 1; when training starts, for a model of several encoders.
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
        _scikit_learn()
        super().__init__(train, val, batch_size, every, name)
        self.k = positive_integer("k", k, "Use k=20.")

    def score(self, train_embeddings: np.ndarray, val_embeddings: np.ndarray) -> float:
        return knn_accuracy(train_embeddings, self.train_labels, val_embeddings, self.val_labels, self.k)


def _scikit_learn() -> tuple[Any, Any]:
    try:
        from sklearn import neighbors, preprocessing
    except ImportError as error:
        raise ImportError('kNN evaluation needs scikit-learn: pip install "keras-tfcl[evaluation]"') from error
    return neighbors, preprocessing
