from __future__ import annotations

import numpy as np

from keras_tfcl import evaluation
from keras_tfcl.callbacks.labelled_evaluation import LabelledEvaluation
from keras_tfcl.evaluation.checks import require_scikit_learn
from keras_tfcl.typing import LabelledData
from keras_tfcl.validation import positive_integer


class KNNEvaluation(LabelledEvaluation):
    """Logs the kNN accuracy of the model's embeddings at the end of every `every`-th epoch.

    It embeds `train` and `val` with `model.predict` and calls `keras_tfcl.evaluation.knn_accuracy`. It works with
    `ContrastiveModel` and with any encoder that was compiled with a loss, whether `fit` has validation data or not.

    `History` and the progress bar show the entry, and so does every callback that comes **after** this one in the list:
    put it before `EarlyStopping(monitor="knn_accuracy", mode="max")`, `ModelCheckpoint` and `CSVLogger`. With `every`
    above 1 the other epochs have no entry: `CSVLogger` then leaves the column out, because the first epoch fixes its
    columns, and `EarlyStopping` warns in those epochs.

    Args:
        train: `(x, labels)` of arrays (x may be a tuple or dict of arrays), or a finite `tf.data.Dataset` of
            `(x, labels)` batches, which is read once, at construction. These are the neighbours.
        val: the same for the samples that are classified. They must be other samples than `train`.
        k: number of neighbours. Defaults to 20.
        batch_size: batch size of `predict`. Defaults to 256.
        every: number of epochs from one evaluation to the next; the first follows epoch number `every`. Defaults to 1.
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
        train: LabelledData,
        val: LabelledData,
        k: int = 20,
        batch_size: int = 256,
        every: int = 1,
        name: str = "knn_accuracy",
    ) -> None:
        require_scikit_learn("kNN evaluation")
        super().__init__(train, val, batch_size, every, name)
        self.k = positive_integer("k", k, "Use k=20.")

    def score(self, train_embeddings: np.ndarray, val_embeddings: np.ndarray) -> float:
        return evaluation.knn_accuracy(train_embeddings, self.train_labels, val_embeddings, self.val_labels, self.k)
