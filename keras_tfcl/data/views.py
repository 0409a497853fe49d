"""From whatever `fit` takes to batches of augmented views, in tf.data beside the training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class ViewPipeline:
    """Makes batches `((view_1, ..., view_V), y, sample_weight)` out of arrays, datasets, PyDatasets and generators.

    An element that already holds a tuple of views passes unchanged. Everything random is a function of `seed` and the
    number of the training step, so that a run that was saved and loaded goes on with the very batches it would have
    had; validation (`training=False`) has the same views each time.

    Args:
        augmenter: function from a batch of instances to a batch of one view each. If it has a method
            `augment(x, seed)` (as `keras_tfcl.ImageAugmenter` does), that is called with an int32 seed of shape (2,);
            otherwise its randomness is its own, and not reproduced.
        views: number of views of each instance.
        seed: integer.
        paired: views are inputs of different encoders, whose shapes may differ. Defaults to False.
    """

    augmenter: Callable[..., Any] | None
    views: int
    seed: int
    paired: bool = False

    def batches(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        training: bool = True,
        step: Callable[[], int] = lambda: 0,
    ) -> Any:
        """Returns a tf.data.Dataset (for a PyDataset or generator: a generator's dataset) of batches of views.

        Args:
            x: an array or a dict of arrays with one row an instance; a tuple of arrays: ready-made views; or a
                `tf.data.Dataset`, `keras.utils.PyDataset` or generator of batches `x`, `(x, y)` or
                `(x, y, sample_weight)`, which brings its own y and batch size.
            y: labels, one a row.
            sample_weight: weights, one a row.
            batch_size: rows in a batch of arrays. Defaults to 32.
            shuffle: shuffle arrays before each epoch. In training the rows left over at an epoch's end are left out, so
                that each batch has as many negatives; in validation they make a smaller last batch.
            training: whether batches are for training.
            step: gives the number of the step that an epoch starts with.
        """
        check_not_empty(x)
        if brings_batches(x):
            check_nothing_beside(x, y, sample_weight)
        if isinstance(x, tf.data.Dataset):
            if hasattr(x, "steps"):  # of `image_views` or `balanced_batches`: a resumed run sees the same batches
                x.steps.first_step = step
            return self._augmented(x, x.cardinality(), step)
        if isinstance(x, keras.utils.PyDataset):
            return _AugmentedPyDataset(x, self, step)
        if isinstance(x, Iterator):
            return self._of_iterator(x, step)
        arrays = _pack(x, y, sample_weight)
        if training and batch_size is not None:
            check_batch_size(batch_size, row_count(arrays))
        return self._array_batches(arrays, batch_size or 32, shuffle and training, training, step)

    def _array_batches(self, arrays: Any, batch_size: int, shuffle: bool, drop: bool, step: Callable) -> Any:
        rows = row_count(arrays)
        drop = drop and rows >= batch_size
        count = rows // batch_size if drop else -(-rows // batch_size)
        with tf.device("CPU"):
            arrays = tf.nest.map_structure(tf.convert_to_tensor, arrays)

        def order(first_step: tf.Tensor) -> tf.data.Dataset:
            indices = tf.range(rows, dtype=tf.int64)
            if shuffle:
                indices = tf.random.experimental.stateless_shuffle(indices, seed=[self.seed, first_step])
            return tf.data.Dataset.from_tensor_slices(indices)

        batches = _steps(step).flat_map(order).batch(batch_size, drop_remainder=drop)
        batches = batches.map(
            lambda indices: tf.nest.map_structure(lambda array: tf.gather(array, indices), arrays),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return self._augmented(batches, count, step)

    def _augmented(self, batches: tf.data.Dataset, count: Any, step: Callable) -> tf.data.Dataset:
        numbers = _steps(step).flat_map(lambda first: tf.data.Dataset.counter(first))
        dataset = tf.data.Dataset.zip((numbers, batches)).map(
            lambda number, batch: self._views(batch, (self.seed, number)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        if int(count) >= 0:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(int(count)))
        return dataset.prefetch(tf.data.AUTOTUNE)

    def _of_iterator(self, elements: Iterator, step: Callable) -> Iterator:
        first = step()  # once: it moves on while Keras reads ahead in a thread
        for i, element in enumerate(elements):
            yield self._views(element, (self.seed, first + i))

    def _views(self, batch: Any, seed: tuple) -> tuple:
        """`((view_1, ..., view_V), y, sample_weight)` of one batch, without y and sample_weight where not given."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        if not isinstance(x, tuple):
            x = tuple(self._view(x, seed, view) for view in range(self.views))
        if not self.paired:
            check_views(x)
        return _pack(x, y, sample_weight)

    def _view(self, x: Any, seed: tuple, view: int) -> Any:
        if self.augmenter is None and self.views == 1:
            return x
        if self.augmenter is None:
            raise ValueError(
                f"ContrastiveModel needs {self.views} different views of each instance. Received: instances without "
                "views, and no augmenter. Pass `augmenter=`, for example keras_tfcl.layers.image_augmenter('photos', "
                "image_shape), or ready-made views as a tuple: x=(view_1, view_2), in a tf.data element "
                "((view_1, view_2),) or ((view_1, view_2), y)."
            )
        if hasattr(self.augmenter, "augment"):
            number = tf.cast(seed[1], tf.int64) * self.views + view
            return self.augmenter.augment(x, tf.cast(tf.stack([tf.cast(seed[0], tf.int64), number]), tf.int32))
        return self.augmenter(x, training=True) if isinstance(self.augmenter, keras.Layer) else self.augmenter(x)


class _AugmentedPyDataset(keras.utils.PyDataset):
    """Augments the batches of another PyDataset, in its workers."""

    def __init__(self, dataset: keras.utils.PyDataset, pipeline: ViewPipeline, step: Callable[[], int]) -> None:
        # TensorFlow hangs in a forked process: its workers are threads where there is something to augment.
        processes = dataset.use_multiprocessing and pipeline.augmenter is None
        super().__init__(dataset.workers, processes, dataset.max_queue_size)
        self._dataset, self._pipeline, self._step = dataset, pipeline, step
        self._first_step = step()

    @property
    def num_batches(self) -> int | None:
        return self._dataset.num_batches

    def __getitem__(self, index: int) -> tuple:
        return self._pipeline._views(self._dataset[index], (self._pipeline.seed, self._first_step + index))

    def on_epoch_begin(self) -> None:
        self._first_step = self._step()
        self._dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._dataset.on_epoch_end()


def _steps(step: Callable[[], int]) -> tf.data.Dataset:
    """A dataset of one number, read anew each time an epoch starts."""
    read = tf.data.Dataset.from_tensors(0)
    return read.map(lambda _: tf.ensure_shape(tf.numpy_function(lambda: np.int64(step()), [], tf.int64), ()))


def check_views(views: tuple) -> None:
    """Raises ValueError unless all views have one structure and equal shapes."""
    shapes = [tf.nest.map_structure(lambda v: tuple(v.shape), view) for view in views]
    for shape in shapes[1:]:
        if shape != shapes[0]:
            raise ValueError(f"The views of an instance must have one shape. Received: {shapes}. Crop or resize them.")


def brings_batches(x: Any) -> bool:
    """Whether x is a source of batches, not an array or a structure of arrays."""
    return isinstance(x, (tf.data.Dataset, keras.utils.PyDataset, Iterator))


def check_not_empty(x: Any) -> None:
    """Raises ValueError for a source of batches that is known to have none."""
    count = x.cardinality() if isinstance(x, tf.data.Dataset) else getattr(x, "num_batches", None)
    if brings_batches(x) and count is not None and int(count) == 0:
        raise ValueError("`x` must hold at least one batch. Received: an empty data set. Check what filters it.")


def check_nothing_beside(x: Any, y: Any, sample_weight: Any) -> None:
    """Raises ValueError for y or sample_weight beside a source of batches."""
    received = [name for name, value in (("y", y), ("sample_weight", sample_weight)) if value is not None]
    if received:
        raise ValueError(
            "A source of batches brings y and sample_weight itself, in elements (x, y) or (x, y, sample_weight). "
            f"Received: {' and '.join(received)} beside a {type(x).__name__}. Put them into its elements."
        )


def check_batch_size(batch_size: int, rows: int) -> None:
    """Raises ValueError for a batch that the data cannot fill."""
    if batch_size > rows:
        raise ValueError(
            f"`batch_size` must not exceed the number of instances. Received: batch_size={batch_size} for {rows} rows. "
            f"Use batch_size={rows} or less, or leave it out."
        )


def row_count(arrays: Any) -> int:
    """The number of rows that all arrays share.

    Raises:
        ValueError: if there is none, or they disagree.
    """
    lengths = [len(array) for array in tf.nest.flatten(arrays)]
    if not lengths or lengths[0] == 0:
        raise ValueError("`x` must hold at least one instance. Received: an empty data set.")
    if len(set(lengths)) > 1:
        raise ValueError(f"x, y and sample_weight must have equally many rows. Received: {lengths} rows.")
    return lengths[0]


def _pack(x: Any, y: Any, sample_weight: Any) -> Any:
    if y is None and sample_weight is not None:
        raise ValueError("`sample_weight` goes with y. Received: sample_weight and no y. Pass y too: labels, or zeros.")
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
