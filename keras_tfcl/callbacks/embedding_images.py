from __future__ import annotations

import importlib.util
import os

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tfcl import evaluation
from keras_tfcl.callbacks.image_grid import are_images, check_value_range, image_grid
from keras_tfcl.typing import Logs
from keras_tfcl.validation import positive_integer


class EmbeddingImages(keras.callbacks.Callback):
    """Writes two grids of images to a log folder, for the image page of TensorBoard.

    - `views`, once: one row for each of the first `queries` images, followed by `neighbours` random views of it. Views
      that a person cannot match are too strong; views that look like copies teach nothing.
    - `nearest_neighbours`, after every `every`-th epoch: one row for each of the same images, followed by its nearest
      other images in `x` by cosine of the embeddings that the loss sees, the nearest first.

    Run `tensorboard --logdir FOLDER` and open "Images".

    Args:
        log_dir: folder of the event file; may be the folder of `keras.callbacks.TensorBoard`.
        x: images `(N, H, W, 1 or 3)`, at least two.
        queries: number of images to show, the first ones of `x`. Defaults to 8.
        neighbours: number of images beside each. Defaults to 8, or N - 1 if that is less.
        max_samples: largest number of images to search, the first ones. Defaults to 2000.
        every: number of epochs from one grid to the next. Defaults to 1.
        value_range: the lowest and the highest value that images may have. Defaults to (0, 255).

    Raises:
        ValueError: for x that is not images, fewer than two of them, values outside `value_range`, or numbers below 1.
        ImportError: without TensorBoard, which TensorFlow's image summaries need.

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
        x: ArrayLike,
        queries: int = 8,
        neighbours: int = 8,
        max_samples: int = 2000,
        every: int = 1,
        value_range: tuple[float, float] = (0, 255),
    ) -> None:
        super().__init__()
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError('`EmbeddingImages` needs TensorBoard: pip install "keras-tfcl[tensorboard]"')
        self.log_dir = os.fspath(log_dir)
        self.x = np.asarray(x)[: positive_integer("max_samples", max_samples, "Use max_samples=2000.")]
        if not are_images(self.x) or len(self.x) < 2:
            raise ValueError(
                "`x` must be at least two images of shape (N, H, W, 1 or 3). "
                f"Received: shape={self.x.shape}. For other data use EmbeddingProjector."
            )
        check_value_range(self.x, value_range)
        self.value_range = value_range
        self.queries = positive_integer("queries", queries, "Use queries=8.")
        self.neighbours = positive_integer("neighbours", neighbours, "Use neighbours=8.")
        self.every = positive_integer("every", every, "Use every=1.")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._writer = tf.summary.create_file_writer(self.log_dir, filename_suffix=".images")
        if getattr(self.model, "augmenter", None) is not None:
            views = evaluation.make_views(self.model.augmenter, self.x[: self.queries], self.neighbours)
            resized = [tf.image.resize(view, self.x.shape[1:3]) for view in views]  # changes only cropped views
            self._write("views", np.stack([self.x[: self.queries], *resized], axis=1), 0)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if (epoch + 1) % self.every == 0:
            embeddings = evaluation.embed(self.model, self.x)
            nearest = evaluation.nearest_neighbours(embeddings, self.queries, self.neighbours)
            queries = np.arange(len(nearest))[:, None]
            self._write("nearest_neighbours", self.x[np.concatenate([queries, nearest], axis=1)], epoch)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._writer.close()

    def _write(self, name: str, images: np.ndarray, epoch: int) -> None:
        """Images `(rows, columns, H, W, C)`."""
        grid = image_grid(images.reshape(-1, *images.shape[2:]), images.shape[1], self.value_range)
        with self._writer.as_default():
            tf.summary.image(name, grid[None], step=epoch)
        self._writer.flush()
