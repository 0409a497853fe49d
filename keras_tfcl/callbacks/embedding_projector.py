from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tfcl import evaluation
from keras_tfcl.atomic_write import write_atomically
from keras_tfcl.callbacks.image_grid import are_images, check_value_range, sprite
from keras_tfcl.typing import Logs, Structure
from keras_tfcl.validation import positive_integer


class EmbeddingProjector(keras.callbacks.Callback):
    """Writes embeddings, labels and a grid of images to a log folder, for the projector page of TensorBoard.

    Run `tensorboard --logdir FOLDER` and open "Projector": it shows PCA, t-SNE and UMAP of the embeddings as the loss
    receives them. Writing the files needs only TensorFlow. Each file is replaced as a whole, so it is never
    incomplete. Scalars need no callback of this library: put `keras.callbacks.TensorBoard` after `KNNEvaluation`,
    `LinearProbe` and `CollapseMonitor` in the list, and it logs their results.

    Args:
        log_dir: folder for `embeddings.tsv`, `metadata.tsv`, `sprite.png` and `projector_config.pbtxt`.
        x: samples. Images `(N, H, W, 1 or 3)` are shown; other samples are points.
        labels: `(N,)` integers or names. Defaults to None: the indices of the samples.
        max_samples: largest number of samples, from the first one on. Defaults to 2000, which the page shows smoothly.
        every: number of epochs between writes; the last epoch is always written. Defaults to None: only the end of
            training.
        value_range: the lowest and the highest value that images may have. Defaults to (0, 255).

    Raises:
        ValueError: for numbers below 1, labels of another length, or images with values outside `value_range`.

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
        x: Structure,
        labels: ArrayLike | None = None,
        max_samples: int = 2000,
        every: int | None = None,
        value_range: tuple[float, float] = (0, 255),
    ) -> None:
        super().__init__()
        max_samples = positive_integer("max_samples", max_samples, "Use max_samples=2000.")
        self.every = None if every is None else positive_integer("every", every, "None writes at the end only.")
        self.log_dir = Path(log_dir)
        self.x = keras.tree.map_structure(lambda part: part[:max_samples], x)
        count = len(keras.tree.flatten(x)[0])
        labels = np.arange(count) if labels is None else np.asarray(labels).reshape(-1)
        if len(labels) != count:
            raise ValueError(
                f"`labels` must have one entry for each sample. Received: {len(labels)} labels, {count} samples. Pass "
                "the labels of `x`, in its order."
            )
        self.labels = labels[:max_samples]
        if are_images(self.x):
            check_value_range(self.x, value_range)
        self.value_range = value_range

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.every and (epoch + 1) % self.every == 0:
            self.write()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.write()

    def write(self) -> None:
        """Writes the files for the current model."""
        embeddings = evaluation.embed(self.model, self.x)
        lines = ("\t".join(f"{value:.6g}" for value in embedding) for embedding in embeddings)
        write_atomically(self.log_dir / "embeddings.tsv", "\n".join(lines).encode())
        labels = (" ".join(str(label).split()) for label in self.labels)  # a tab or a line break would end the entry
        write_atomically(self.log_dir / "metadata.tsv", "\n".join(labels).encode())
        config = 'tensor_name: "embeddings" tensor_path: "embeddings.tsv" metadata_path: "metadata.tsv"'
        if are_images(self.x):
            grid, (height, width) = sprite(self.x, self.value_range)
            write_atomically(self.log_dir / "sprite.png", tf.io.encode_png(grid).numpy())
            config += f' sprite {{ image_path: "sprite.png" single_image_dim: {width} single_image_dim: {height} }}'
        write_atomically(self.log_dir / "projector_config.pbtxt", f"embeddings {{ {config} }}\n".encode())
