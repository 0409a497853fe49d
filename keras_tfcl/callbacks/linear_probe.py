from __future__ import annotations

import numpy as np

from keras_tfcl import evaluation
from keras_tfcl.callbacks.labelled_evaluation import LabelledEvaluation
from keras_tfcl.evaluation.checks import require_scikit_learn
from keras_tfcl.typing import LabelledData
from keras_tfcl.validation import positive_number


class LinearProbe(LabelledEvaluation):
    """Logs the accuracy of a linear classifier on the model's frozen embeddings, epoch by epoch.

    It embeds `train` and `val` with `model.predict` and calls `keras_tfcl.evaluation.linear_accuracy`; no gradient
    reaches the model. It takes longer than `KNNEvaluation` (seconds for 10,000 samples of 128 features) and answers
    another question: whether the classes are linearly separable, not whether neighbours share a class. The order of
    callbacks, `every` and `name` are as in `KNNEvaluation`.

    Args:
        train: `(x, labels)` of arrays, or a finite `tf.data.Dataset` of `(x, labels)` batches, which is read once, at
            construction. The classifier is trained on these.
        val: the same for the samples that are classified. They must be other samples than `train`.
        regularization: positive number, the classifier's weight of the squared norm. Defaults to 1.
        batch_size: batch size of `predict`. Defaults to 256.
        every: number of epochs from one evaluation to the next. Defaults to 1.
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
        train: LabelledData,
        val: LabelledData,
        regularization: float = 1.0,
        batch_size: int = 256,
        every: int = 1,
        name: str = "linear_accuracy",
    ) -> None:
        require_scikit_learn("A linear probe")
        super().__init__(train, val, batch_size, every, name)
        self.regularization = positive_number("regularization", regularization, "Use regularization=1.0.")

    def score(self, train_embeddings: np.ndarray, val_embeddings: np.ndarray) -> float:
        sets = train_embeddings, self.train_labels, val_embeddings, self.val_labels
        return evaluation.linear_accuracy(*sets, regularization=self.regularization)
