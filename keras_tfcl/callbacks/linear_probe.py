"""Accuracy of a linear classifier on embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_tfcl.callbacks.labelled import LabelledEvaluation, check_equal_sizes, checked_rows
from keras_tfcl.validation import positive_integer, positive_number


def linear_accuracy(
    train_embeddings: Any,
    train_labels: Any,
    val_embeddings: Any,
    val_labels: Any,
    regularization: float = 1.0,
    max_iter: int = 1000,
) -> float:
    """Share of `val` rows that a logistic regression trained on the `train` rows gets right, in [0, 1].

    Each feature is scaled to mean 0 and variance 1 on `train` first. The regression is scikit-learn's, multinomial,
    solved by L-BFGS: deterministic, with no learning rate to choose.

    Args:
        train_embeddings: `(N, D)` floats, taken as they are (not normalised); rows of higher rank are flattened.
        train_labels: `(N,)` or `(N, 1)` integers of at least two classes.
        val_embeddings: `(M, D)`.
        val_labels: `(M,)` or `(M, 1)` integers.
        regularization: positive number, the weight of the squared norm (scikit-learn's 1 / C). Defaults to 1.
        max_iter: most iterations; scikit-learn warns if they don't suffice. Defaults to 1000.

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
    regression, pipeline, scaler = _scikit_learn()
    regularization = positive_number("regularization", regularization, "Use regularization=1.0.")
    max_iter = positive_integer("max_iter", max_iter, "Use max_iter=1000.")
    train, labels = checked_rows("train", train_embeddings, train_labels)
    val, val_labels = checked_rows("val", val_embeddings, val_labels)
    check_equal_sizes(train, val)
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"`train_labels` must hold at least two classes. Received: only {labels[0]!r}. Draw `train` from all of "
            "them."
        )
    # float64: in float32 the solver stalls above its tolerance on some embeddings.
    classifier = pipeline(scaler(), regression(C=1 / regularization, max_iter=max_iter))
    classifier.fit(train.astype("float64"), labels)
    return float(classifier.score(val.astype("float64"), val_labels))


class LinearProbe(LabelledEvaluation):
    """Writes the accuracy of a linear classifier on the model's frozen embeddings into the logs, epoch by epoch.

    Embeds `train` and `val` with `model.predict` and calls `linear_accuracy`; nothing flows back into the model. It
    costs more than `KNNEvaluation` (seconds for 10,000 rows of 128 features) and answers another question: whether the
    classes are linearly separable, not whether neighbours share one. Place in the list of callbacks, `every` and
    `name` are as in `KNNEvaluation`.

    Args:
        train: `(x, labels)` of arrays, or a finite `tf.data.Dataset` of `(x, labels)` batches, which is read once,
            here. The classifier is trained on these.
        val: the same for the rows that are classified. Must be other instances than `train`.
        regularization: of the classifier, a positive number. Defaults to 1.
        batch_size: batch size of `predict`. Defaults to 256.
        every: epochs from one evaluation to the next. Defaults to 1.
        name: key in the logs. Defaults to `"linear_accuracy"`.

    Raises:
        ValueError: at construction, for sets that are empty, infinite, unbatched or of unequal lengths, or for numbers
            out of range; when training starts, for a model of several encoders.
        ImportError: at construction, without scikit-learn.

    Example:

    >>> x, labels = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 4
    >>> encoder = keras.Sequential([keras.layers.Dense(16)])
    >>> encoder.compile("adam", "mse")
    >>> probe = keras_tfcl.LinearProbe((x[:48], labels[:48]), (x[48:], labels[48:]))
    >>> history = encoder.fit(x, np.zeros((64, 16)), verbose=0, callbacks=[probe])
    >>> len(history.history["linear_accuracy"])
    1
    """

    def __init__(
        self,
        train: Any,
        val: Any,
        regularization: float = 1.0,
        batch_size: int = 256,
        every: int = 1,
        name: str = "linear_accuracy",
    ) -> None:
        _scikit_learn()
        super().__init__(train, val, batch_size, every, name)
        self.regularization = positive_number("regularization", regularization, "Use regularization=1.0.")

    def score(self, train_embeddings: np.ndarray, val_embeddings: np.ndarray) -> float:
        sets = train_embeddings, self.train_labels, val_embeddings, self.val_labels
        return linear_accuracy(*sets, regularization=self.regularization)


def _scikit_learn() -> tuple[Any, Any, Any]:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError('A linear probe needs scikit-learn: pip install "keras-tfcl[evaluation]"') from error
    return LogisticRegression, make_pipeline, StandardScaler
