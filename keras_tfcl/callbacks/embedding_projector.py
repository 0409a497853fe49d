"""Embeddings for TensorBoard's projector, with a picture of each instance."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.callbacks.pictures import are_images, picture_sheet
from keras_tfcl.models import embed_instances
from keras_tfcl.validation import positive_integer

LARGEST_SPRITE = 8192  # pixels a side; TensorBoard shows no larger one


class EmbeddingProjector(keras.callbacks.Callback):
    """Writes embeddings, labels and a sheet of pictures to a log folder, for the projector page of TensorBoard.

    Run `tensorboard --logdir FOLDER` and open "Projector": it shows PCA, t-SNE and UMAP of the embeddings as the loss
    sees them. Nothing but TensorFlow is needed to write the files; each is replaced at once, never half written.
    Scalars need no callback of this library: put `keras.callbacks.TensorBoard` behind `KNNEvaluation`, `LinearProbe`
    and `CollapseMonitor` in the list, and it logs what they measure.

    Args:
        log_dir: folder for `embeddings.tsv`, `metadata.tsv`, `sprite.png` and `projector_config.pbtxt`.
        x: instances. Images `(N, H, W, 1 or 3)` with values 0..255 become pictures; others have none.
        labels: `(N,)` integers, or names. Defaults to None: row numbers.
        rows: most instances, the first ones. Defaults to 2000, which the page shows smoothly.
        every: epochs from one writing to the next; the last epoch's are always written. Defaults to None: at the end of
            training only.

    Raises:
        ValueError: for numbers below 1, or labels of another length.

    Example:

    >>> encoder = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    >>> encoder.compile("sgd", "mse")
    >>> images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 1), "uint8")
    >>> show = keras_tfcl.callbacks.EmbeddingProjector("logs", images, np.arange(10) % 2)
    >>> history = encoder.fit(images, np.zeros((10, 4)), verbose=0, callbacks=[show])
    >>> import os
    >>> sorted(os.listdir("logs"))
    ['embeddings.tsv', 'metadata.tsv', 'projector_config.pbtxt', 'sprite.png']
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        x: Any,
        labels: Any = None,
        rows: int = 2000,
        every: int | None = None,
    ) -> None:
        super().__init__()
        rows = positive_integer("rows", rows, "Use rows=2000.")
        self.every = None if every is None else positive_integer("every", every, "None writes at the end only.")
        self.log_dir = Path(log_dir)
        self.x = keras.tree.map_structure(lambda part: part[:rows], x)
        count = len(keras.tree.flatten(x)[0])
        labels = np.arange(count) if labels is None else np.asarray(labels).reshape(-1)
        if len(labels) != count:
            raise ValueError(
                f"`labels` must have one entry for each instance. Received: {len(labels)} labels, {count} instances."
            )
        self.labels = labels[:rows]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.every and (epoch + 1) % self.every == 0:
            self.write()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.write()

    def write(self) -> None:
        """Writes the files for the model as it is now."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        embeddings = embed_instances(self.model, self.x)
        lines = ("\t".join(f"{value:.6g}" for value in row) for row in embeddings)
        self._replace("embeddings.tsv", "\n".join(lines).encode())
        self._replace("metadata.tsv", "\n".join(_plain(label) for label in self.labels).encode())
        config = 'tensor_name: "embeddings" tensor_path: "embeddings.tsv" metadata_path: "metadata.tsv"'
        if are_images(self.x):
            sheet, (height, width) = sprite(self.x)
            self._replace("sprite.png", tf.io.encode_png(sheet).numpy())
            config += f' sprite {{ image_path: "sprite.png" single_image_dim: {width} single_image_dim: {height} }}'
        self._replace("projector_config.pbtxt", f"embeddings {{ {config} }}\n".encode())

    def _replace(self, name: str, content: bytes) -> None:
        beside = self.log_dir / (name + ".part")
        try:
            beside.write_bytes(content)
            os.replace(beside, self.log_dir / name)
        finally:
            beside.unlink(missing_ok=True)


def sprite(images: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """Lays images out on a square sheet, row by row, smaller where the sheet would exceed 8192 pixels.

    Args:
        images: `(N, H, W, 1 or 3)`, values 0..255.

    Returns:
        The sheet, uint8 `(S * h, S * w, C)` with S the root of N rounded up, and `(h, w)`.

    Example:

    >>> sheet, size = sprite(np.zeros((5, 4, 6, 3), "uint8"))
    >>> sheet.shape, size
    ((12, 18, 3), (4, 6))
    """
    images = np.asarray(images)
    side = math.ceil(math.sqrt(len(images)))
    size = tuple(min(length, LARGEST_SPRITE // side) for length in images.shape[1:3])
    if size != images.shape[1:3]:
        images = tf.image.resize(images, size, antialias=True).numpy()
    sheet = picture_sheet(images, side)
    missing = side * size[0] - len(sheet)  # rows of pictures, to make it square
    return np.pad(sheet, ((0, missing), (0, 0), (0, 0))), size


def _plain(label: Any) -> str:
    return " ".join(str(label).split())  # a tab or a line break would end the entry
