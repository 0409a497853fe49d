"""The accuracy of a linear classifier on frozen embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl.evaluation.checks import labelled_embeddings, require_scikit_learn
from keras_tfcl.validation import positive_integer, positive_number


def linear_accuracy(
    train_embeddings: ArrayLike,
    train_labels: ArrayLike,
    val_embeddings: ArrayLike,
    val_labels: ArrayLike,
    regularization: float = 1.0,
    max_iter: int = 1000,
) -> float:
    """Computes the accuracy on `val`, in [0, 1], of a logistic regression that is trained on `train`.

    Each feature is first scaled to mean 0 and variance 1 on `train`. The regression is scikit-learn's multinomial one,
    solved by L-BFGS: it is deterministic and has no learning rate to choose.

    Args:
        train_embeddings: `(N, D)` floats, not normalised; embeddings of higher rank are flattened.
        train_labels: `(N,)` or `(N, 1)` integers of at least two classes.
        val_embeddings: `(M, D)`.
        val_labels: `(M,)` or `(M, 1)` integers.
        regularization: positive number, the weight of the squared norm (scikit-learn's 1 / C). Defaults to 1.
        max_iter: largest number of iterations; scikit-learn warns if they do not suffice. Defaults to 1000.

    Returns:
        The accuracy.

    Raises:
        ValueError: for labels of one class, lengths or sizes that differ, empty sets, embeddings with NaN or Inf,
            arguments out of range.
        ImportError: without scikit-learn.

    Example:

    >>> linear_accuracy([[1.0, 0.0], [2.0, 1.0], [-1.0, 0.0]], [0, 0, 1], [[3.0, 0.0], [-2.0, 0.0]], [0, 1])
    1.0
    """
    require_scikit_learn("A linear probe")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regularization = positive_number("regularization", regularization, "Use regularization=1.0.")
    max_iter = positive_integer("max_iter", max_iter, "Use max_iter=1000.")
    train, train_labels, val, val_labels = labelled_embeddings(
        train_embeddings, train_labels, val_embeddings, val_labels
    )
    if len(np.unique(train_labels)) < 2:
        raise ValueError(
            f"`train_labels` must hold at least two classes. Received: only {train_labels[0]!r}. Draw `train` from all "
            "classes."
        )
    # float64: in float32 the solver stalls above its tolerance on some embeddings.
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1 / regularization, max_iter=max_iter))
    classifier.fit(train.astype("float64"), train_labels)
    return float(classifier.score(val.astype("float64"), val_labels))
