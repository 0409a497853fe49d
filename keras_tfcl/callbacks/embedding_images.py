"""Pictures for TensorBoard: the views that are compared, and what the embedding holds for alike."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.callbacks.pictures import are_images, picture_sheet
from keras_tfcl.models import embed_instances, make_views
from keras_tfcl.validation import positive_integer


class EmbeddingImages(keras.callbacks.Callback):
    """Writes two sheets of pictures to a log folder, for the image page of TensorBoard.

    - `views`, once: a row for each of the first `queries` images, which is followed by `neighbours` random views of it.
      Views that a person can't match are too strong; views that look like copies teach nothing.
    - `nearest_neighbours`, after every `every`-th epoch: a row for each of the same images, which is followed by its
      nearest others in `x` by cosine of the embeddings that the loss sees, the nearest first.

    Run `tensorboard --logdir FOLDER` and open "Images".

    Args:
        log_dir: folder of the event file; may be that of `keras.callbacks.TensorBoard`.
        x: images `(N, H, W, 1 or 3)`, values 0..255, at least two.
        queries: images to show, the first ones of `x`. Defaults to 8.
        neighbours: pictures beside each. Defaults to 8, or N - 1 if that is less.
        rows: most images to search, the first ones. Defaults to 2000.
        every: epochs from one writing to the next. Defaults to 1.

    Raises:
        ValueError: for x that is not images, fewer than two of them, or numbers below 1.
        ImportError: without TensorBoard, which TensorFlow's image summaries are part of.

    Example:

    >>> encoder = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    >>> augmenter = keras_tfcl.layers.image_augmenter("digits", (8, 8, 1))
    >>> model = keras_tfcl.ContrastiveModel(encoder, augmenter=augmenter)
    >>> model.compile("sgd", keras_tfcl.InfoNCE(0.2))
    >>> images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), "uint8")
    >>> show = keras_tfcl.callbacks.EmbeddingImages("logs", images)
    >>> history = model.fit(images, verbose=0, callbacks=[show])
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        x: Any,
        queries: int = 8,
        neighbours: int = 8,
        rows: int = 2000,
        every: int = 1,
    ) -> None:
        super().__init__()
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError('`EmbeddingImages` needs TensorBoard: pip install "keras-tfcl[tensorboard]"')
        self.log_dir = os.fspath(log_dir)
        self.x = np.asarray(x)[: positive_integer("rows", rows, "Use rows=2000.")]
        if not are_images(self.x) or len(self.x) < 2:
            raise ValueError(
                "`x` must be at least two images of shape (N, H, W, 1 or 3), values 0..255. "
                f"Received: shape={self.x.shape}. For other data use EmbeddingProjector."
            )
        self.queries = positive_integer("queries", queries, "Use queries=8.")
        self.neighbours = positive_integer("neighbours", neighbours, "Use neighbours=8.")
        self.every = positive_integer("every", every, "Use every=1.")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._writer = tf.summary.create_file_writer(self.log_dir, filename_suffix=".images")
        if getattr(self.model, "augmenter", None) is not None:
            views = make_views(self.model.augmenter, self.x[: self.queries], self.neighbours)
            views = [tf.image.resize(view, self.x.shape[1:3]) for view in views]  # as they are, unless cropped
            self._write("views", np.stack([self.x[: self.queries], *views], axis=1), 0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every == 0:
            nearest = nearest_neighbours(embed_instances(self.model, self.x), self.queries, self.neighbours)
            own = np.arange(len(nearest))[:, None]
            self._write("nearest_neighbours", self.x[np.concatenate([own, nearest], axis=1)], epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._writer.close()

    def _write(self, name: str, pictures: np.ndarray, step: int) -> None:
        """Pictures `(rows, columns, H, W, C)`."""
        sheet = picture_sheet(pictures.reshape(-1, *pictures.shape[2:]), pictures.shape[1])
        with self._writer.as_default():
            tf.summary.image(name, sheet[None], step=step)
        self._writer.flush()


def nearest_neighbours(embeddings: np.ndarray, queries: int, neighbours: int) -> np.ndarray:
    """For each of the first rows the numbers of the nearest other rows by cosine, the nearest first.

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
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = embeddings / np.where(length == 0, 1.0, length)
    cosines = rows[:queries] @ rows.T
    np.fill_diagonal(cosines, -np.inf)  # not itself
    return np.argsort(-cosines, axis=1, kind="stable")[:, : min(neighbours, len(rows) - 1)]
