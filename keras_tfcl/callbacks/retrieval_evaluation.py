from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_tfcl import evaluation
from keras_tfcl.evaluation.ranking import Relevant
from keras_tfcl.typing import Logs, Structure
from keras_tfcl.validation import positive_integer


class RetrievalEvaluation(keras.callbacks.Callback):
    """Logs how well queries find their relevant items in a corpus, at the end of every `every`-th epoch.

    It embeds `queries` and `corpus` and calls `keras_tfcl.evaluation.retrieval`. A `ContrastiveModel` of two encoders
    embeds the queries with the first and the corpus with the second; any other model embeds both with `predict`. The
    whole corpus is embedded each time, so a large one deserves a larger `every`.

    The logs get `"retrieval_mrr"`, `"retrieval_recall@10"` and so on; monitor them with `mode="max"`. The order of
    callbacks and `every` are as in `KNNEvaluation`.

    Args:
        queries: an array of Q samples, or a structure of arrays.
        corpus: the same of C samples, to be ranked for each query.
        relevant, exclude, k: of `keras_tfcl.evaluation.retrieval`.
        batch_size: batch size of `predict`. Defaults to 256.
        every: number of epochs from one evaluation to the next. Defaults to 1.
        name: prefix of the keys in the logs. Defaults to `"retrieval"`.

    Raises:
        ValueError: at construction for numbers below 1; when training starts, for a model of three or more encoders; at
            the first evaluation as `keras_tfcl.evaluation.retrieval`.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> queries, documents = rng.normal(size=(32, 4)), rng.normal(size=(32, 6))
    >>> towers = tuple(keras.Sequential([keras.Input((n,)), keras.layers.Dense(8)]) for n in (4, 6))
    >>> model = keras_tfcl.ContrastiveModel(towers)
    >>> model.compile("adam", loss=keras_tfcl.InfoNCE(cross_view_only=True))
    >>> found = keras_tfcl.RetrievalEvaluation(queries, documents, relevant=np.arange(32))
    >>> history = model.fit((queries, documents), batch_size=16, verbose=0, callbacks=[found])
    >>> len(history.history["retrieval_ndcg@10"])
    1
    """

    def __init__(
        self,
        queries: Structure,
        corpus: Structure,
        relevant: Relevant,
        exclude: Relevant | None = None,
        k: int | Sequence[int] = (1, 10),
        batch_size: int = 256,
        every: int = 1,
        name: str = "retrieval",
    ) -> None:
        super().__init__()
        self.queries, self.corpus, self.relevant, self.exclude, self.k = queries, corpus, relevant, exclude, k
        self.batch_size = positive_integer("batch_size", batch_size, "Use batch_size=256.")
        self.every = positive_integer("every", every, "Use every=1 to evaluate after each epoch.")
        self.name = name

    def on_train_begin(self, logs: Logs | None = None) -> None:
        count = len(getattr(self.model, "encoders", (self.model,)))
        if count > 2:
            raise ValueError(
                "`RetrievalEvaluation` ranks with one encoder, or with two: queries and corpus. Received: a model of "
                f"{count}. Embed with two of them and call keras_tfcl.evaluation.retrieval."
            )

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if (epoch + 1) % self.every == 0 and logs is not None:
            logs.update({f"{self.name}_{key}": value for key, value in self.evaluate().items()})

    def evaluate(self) -> dict[str, float]:
        """The scores of the current model."""
        encoders = getattr(self.model, "encoders", (self.model,))
        queries, corpus = (
            encoder.predict(x, self.batch_size, verbose=0)
            for encoder, x in ((encoders[0], self.queries), (encoders[-1], self.corpus))
        )
        return evaluation.retrieval(queries, corpus, self.relevant, self.exclude, self.k)
