"""Nearest neighbours by cosine, and the accuracy of their vote."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl.evaluation.checks import labelled_embeddings, require_scikit_learn, unit_vectors
from keras_tfcl.validation import positive_integer


def knn_accuracy(
    train_embeddings: ArrayLike, train_labels: ArrayLike, val_embeddings: ArrayLike, val_labels: ArrayLike, k: int = 20
) -> float:
    """Computes the accuracy on `val`, in [0, 1], of a vote of the k nearest `train` samples by cosine.

    Each neighbour has one vote, and among equal counts the smallest label wins. Nothing is trained, so the accuracy
    depends on the embeddings only.

    Args:
        train_embeddings: `(N, D)` floats, need not be normalised; embeddings of higher rank are flattened.
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
    require_scikit_learn("kNN evaluation")
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import normalize

    k = positive_integer("k", k, "Use k=20.")
    train, train_labels, val, val_labels = labelled_embeddings(
        train_embeddings, train_labels, val_embeddings, val_labels
    )
    # On unit vectors the Euclidean order is the cosine order, and scikit-learn has a faster search for it. A zero
    # vector gets the length 1 as well, in a direction of its own, so that its cosine is 0.
    train, is_zero = normalize(train), ~train.any(axis=1, keepdims=True)
    val = np.hstack([normalize(val), np.zeros((len(val), 1), "float32")])
    classifier = KNeighborsClassifier(min(k, len(train)), algorithm="brute", metric="euclidean")
    classifier.fit(np.hstack([train, is_zero.astype("float32")]), train_labels)
    return float(classifier.score(val, val_labels))


def nearest_neighbours(embeddings: ArrayLike, queries: int, neighbours: int) -> np.ndarray:
    """Finds the nearest other samples of each of the first samples by cosine, the nearest first.

    Args:
        embeddings: `(N, D)`, need not be normalised.
        queries: Q, at most N.
        neighbours: K; capped at N - 1.

    Returns:
        integers `(Q, K)`.

    Example:

    >>> nearest_neighbours(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]]), queries=1, neighbours=2)
    array([[2, 1]])
    """
    unit = unit_vectors(embeddings)
    cosines = unit[:queries] @ unit.T  # (Q, N)
    np.fill_diagonal(cosines, -np.inf)  # not the query itself
    return np.argsort(-cosines, axis=1, kind="stable")[:, : min(neighbours, len(unit) - 1)]
