"""Turns the input of `fit` into batches of augmented views, in tf.data and in parallel to the training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.data.draws import created_each_epoch, draw, notice_repeated_draws, repeats_draws, reseeded
from keras_tfcl.data.first_batch import FirstBatch
from keras_tfcl.data.inputs import as_samples, as_targets, as_weights, brings_batches, checked_source, row_count
from keras_tfcl.data.open_iterators import close_iterators_at_exit
from keras_tfcl.layers import ImageAugmenter
from keras_tfcl.typing import Augmenter, BatchSource, DataSource, SeededAugmenter, Structure, Tensor
from keras_tfcl.validation import positive_integer

Batches = Callable[[tf.data.Dataset], tf.data.Dataset]


class Unaugmented(NamedTuple):
    """A batch whose views the training step makes: its samples, and its number, from which the views follow."""

    samples: Structure
    number: Tensor


@dataclass(frozen=True)
class ViewPipeline:
    """Makes batches `((view_1, ..., view_V), y, sample_weight)` out of arrays, datasets, PyDatasets and generators.

    An element that already holds a tuple of views passes unchanged. All randomness is a function of `seed` and the
    number of the training step, so that a run that was saved and loaded continues with exactly the same batches;
    validation (`training=False`) has the same views each time.

    The first batch of training is checked. There is one warning for equal views, samples with the same views, pixels
    outside the augmenter's range, labels that do not repeat, and a single sample.

    Args:
        augmenter: function from a batch of samples to a batch of one view each. If it has a method
            `augment(x, seed)`, as `keras_tfcl.ImageAugmenter` does, this is called with an int32 seed of shape (2,).
            A Keras layer is called with its random generators set to such a seed. Stateful `tf.random` operations of
            any other function draw new numbers in each epoch. After `keras.utils.set_random_seed` these are a function
            of `seed` and the epoch's first step, and batches are made one at a time.
        views: number of views of each sample.
        seed: integer.
        paired: whether views are inputs of different encoders, so that their shapes may differ. Defaults to False.
        labels_decide: whether samples with equal labels are positives. Defaults to False.
        in_batch: whether all negatives are samples of the batch. Defaults to True.
        on_device: whether views are made in the training step. Batches of arrays and data sets then hold `Unaugmented`
            samples, of which `views_of` makes the same views. Needs an augmenter with a method `augment`. Defaults to
            False.
    """

    augmenter: Augmenter | None
    views: int
    seed: int
    paired: bool = False
    labels_decide: bool = False
    in_batch: bool = True
    on_device: bool = False

    def __post_init__(self) -> None:
        close_iterators_at_exit()

    def views_of(self, x: tuple[Structure, ...] | Unaugmented) -> tuple[Structure, ...]:
        """Returns the views of a batch, and makes them if it holds samples."""
        return tuple(self._view(*x, view) for view in range(self.views)) if isinstance(x, Unaugmented) else x

    def view_count(self, x: tuple[Structure, ...] | Unaugmented) -> int:
        """Returns the number of views of a batch."""
        return self.views if isinstance(x, Unaugmented) else len(x)

    def batches(
        self,
        x: DataSource,
        y: Structure | None = None,
        sample_weight: Structure | None = None,
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        training: bool = True,
        step: Callable[[], int] = lambda: 0,
    ) -> BatchSource:
        """Returns a tf.data.Dataset (for a PyDataset or generator: a generator's dataset) of batches of views.

        Args:
            x: an array or a dict of arrays with one sample in each row; a tuple of arrays: ready-made views; or a
                `tf.data.Dataset`, `keras.utils.PyDataset` or generator of batches `x`, `(x, y)` or
                `(x, y, sample_weight)`, which brings its own y and batch size.
            y: labels, one for each sample.
            sample_weight: weights, one for each sample.
            batch_size: number of samples in a batch of arrays. Defaults to 32.
            shuffle: whether to shuffle arrays before each epoch. In training, an incomplete last batch is dropped, so
                that each batch has the same number of negatives; in validation it is kept.
            training: whether batches are for training.
            step: returns the number of the step at which an epoch starts.
        """
        if isinstance(x, tf.data.Dataset):
            checked_source(x, y, sample_weight)
            if training:
                notice_repeated_draws(x)
            count = int(x.cardinality())
            # Of `image_views` or `balanced_batches`: a resumed run sees the same batches.
            batches: Batches = x.steps.passes if hasattr(x, "steps") else lambda _: x
            return self._augmented(batches, count, _one_start(step), int(step()), training, count)
        if isinstance(x, keras.utils.PyDataset):
            return _AugmentedPyDataset(checked_source(x, y, sample_weight), self._on_host(), step, training)
        if brings_batches(x):
            return self._on_host()._of_iterator(checked_source(x, y, sample_weight), step, training)
        arrays = self._checked_arrays(x, y, sample_weight, batch_size, training)
        batches, count = self._array_batches(arrays, batch_size or 32, shuffle and training, training)
        return self._augmented(batches, count, _one_start(step), int(step()), training, count)

    def endless_batches(
        self,
        x: DataSource,
        y: Structure | None = None,
        sample_weight: Structure | None = None,
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        step: Callable[[], int] = lambda: 0,
    ) -> tuple[tf.data.Dataset, int] | None:
        """Returns the training batches of `batches`, epoch after epoch, and the number of batches in an epoch.

        One iterator then serves all epochs: a new one would take 0.1 s and more until its first batch. None for
        sources whose next epoch is not known beforehand: all but arrays and data sets of this library.

        Args:
            x, y, sample_weight, batch_size, shuffle: as for `batches`.
            step: returns the number of the step at which the first epoch starts.
        """
        if isinstance(x, tf.data.Dataset) and hasattr(x, "steps"):  # of `image_views` or `balanced_batches`
            checked_source(x, y, sample_weight)
            batches: Batches = x.steps.passes
            count = int(x.cardinality())
        elif isinstance(x, tf.data.Dataset) or brings_batches(x):
            return None
        else:
            arrays = self._checked_arrays(x, y, sample_weight, batch_size, True)
            batches, count = self._array_batches(arrays, batch_size or 32, shuffle, True)
        starts = _one_start(step).flat_map(lambda first: tf.data.Dataset.counter(first, count))
        return self._augmented(batches, tf.data.INFINITE_CARDINALITY, starts, int(step()), True, count), count

    def one_batch(
        self, x: Structure, y: Structure | None = None, sample_weight: Structure | None = None, step: int = 0
    ) -> tuple[tuple[Structure, ...], Tensor | None, Tensor | None]:
        """Returns the views, y and sample_weight (None if not given) of a single batch, as a training step gets them.

        Args:
            x, y, sample_weight: arrays as in `batches`, or a tuple of ready-made views.
            step: number of the training step, which fixes the views.
        """
        if brings_batches(x):
            raise ValueError(
                f"`x` must be one batch, arrays or a tuple of views. Received: a {type(x).__name__}. Pass its elements "
                "one by one, or use fit or evaluate."
            )
        arrays = _pack(as_samples(x), as_targets(y), as_weights(sample_weight))
        row_count(arrays)
        with tf.device("CPU"):
            arrays = tf.nest.map_structure(tf.convert_to_tensor, arrays)
        return keras.utils.unpack_x_y_sample_weight(self._on_host()._checked_batch(arrays, step, False, None))

    def _checked_arrays(
        self,
        x: Structure,
        y: Structure | None,
        sample_weight: Structure | None,
        batch_size: int | None,
        training: bool,
    ) -> Structure:
        arrays = _pack(as_samples(x), as_targets(y), as_weights(sample_weight))
        if batch_size is not None:
            check_batch_size(batch_size, row_count(arrays) if training else None)
        return arrays

    def _array_batches(self, arrays: Structure, batch_size: int, shuffle: bool, training: bool) -> tuple[Batches, int]:
        """The batches of all epochs as a function of the steps at which they start, and their number in an epoch."""
        rows = row_count(arrays)
        drop = training and rows >= batch_size
        count = rows // batch_size if drop else -(-rows // batch_size)
        with tf.device("CPU"):
            arrays = tf.nest.map_structure(tf.convert_to_tensor, arrays)

        def epoch(start: tf.Tensor) -> tf.data.Dataset:
            indices = tf.range(rows, dtype=tf.int64)
            if shuffle:
                indices = tf.random.experimental.stateless_shuffle(indices, seed=[self.seed, start])
            return tf.data.Dataset.from_tensor_slices(indices).batch(batch_size, drop_remainder=drop)

        def batches(starts: tf.data.Dataset) -> tf.data.Dataset:
            return starts.flat_map(epoch).map(
                lambda indices: tf.nest.map_structure(lambda array: tf.gather(array, indices), arrays),
                num_parallel_calls=tf.data.AUTOTUNE,
            )

        return batches, count

    def _augmented(
        self, batches: Batches, count: int, starts: tf.data.Dataset, first: int, training: bool, steps: int
    ) -> tf.data.Dataset:
        """Views of the batches of all epochs.

        Args:
            batches: function from the steps at which epochs start to the batches of these epochs.
            count: number of batches, or a negative number where it is unknown or infinite.
            starts: the steps at which epochs start.
            first: number of the first batch, which is checked.
            training: whether batches are for training. The epochs of validation all start at the same step.
            steps: number of batches of one epoch, or a negative number.
        """
        x = keras.utils.unpack_x_y_sample_weight(batches(starts).element_spec)[0]
        self._check_views_can_be_made(x)
        look = self._first_batch(training)

        def numbered(starts: tf.data.Dataset, pipeline: ViewPipeline, parallel: int | None) -> tf.data.Dataset:
            numbers = starts.flat_map(lambda start: tf.data.Dataset.counter(start))
            return tf.data.Dataset.zip((numbers, batches(starts))).map(
                lambda number, batch: pipeline._batch(batch, number, number == first, look), num_parallel_calls=parallel
            )

        def reseeded_epoch(augmenter: Callable[..., Structure], start: int) -> tf.data.Dataset:
            # One batch at a time: in parallel it would be left to chance which batch gets which draw.
            pipeline = dataclasses.replace(self, augmenter=reseeded(augmenter, self.seed, start))
            return numbered(tf.data.Dataset.from_tensors(np.int64(start)), pipeline, None)

        augmenter = None if isinstance(x, tuple) or isinstance(self.augmenter, SeededAugmenter) else self.augmenter
        if augmenter is not None and repeats_draws(augmenter, x):
            dataset = created_each_epoch(partial(reseeded_epoch, augmenter), starts, first, steps if training else 0)
        else:
            dataset = numbered(starts, self, tf.data.AUTOTUNE)
        if not self.on_device:
            self._check_shapes(dataset.element_spec[0])
        if count >= 0:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
        return dataset.prefetch(tf.data.AUTOTUNE)

    def _first_batch(self, training: bool) -> FirstBatch | None:
        return FirstBatch(self.augmenter, self.labels_decide, self.in_batch, self.paired) if training else None

    def _on_host(self) -> ViewPipeline:
        return dataclasses.replace(self, on_device=False)

    def _of_iterator(
        self, elements: Iterator[Structure], step: Callable[[], int], training: bool
    ) -> Iterator[tuple[Structure, ...]]:
        first = step()  # once: it moves on while Keras reads ahead in a thread
        look = self._first_batch(training)
        for i, element in enumerate(elements):
            yield self._checked_batch(element, first + i, i == 0, look)

    def _checked_batch(
        self, batch: Structure, number: int, is_first: bool, look: FirstBatch | None
    ) -> tuple[Structure, ...]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        x = as_samples(x, "an element of x")
        self._check_views_can_be_made(x)
        made = self._batch(_pack(x, y, sample_weight), number, is_first, look)
        self._check_shapes(made[0])  # type: ignore[arg-type]  # the tuple of views
        return made

    def _batch(
        self, batch: Structure, number: int | Tensor, is_first: bool | Tensor, look: FirstBatch | None
    ) -> tuple[Structure, ...]:
        """`((view_1, ..., view_V), y, sample_weight)` of one batch, without y and sample_weight where not given."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        views = x if isinstance(x, tuple) else Unaugmented(x, number)
        if not self.on_device:
            views = self.views_of(views)
        if look is not None:
            look.notice(is_first, x, lambda: self.views_of(views), y)
        return _pack(views, y, sample_weight)  # type: ignore[return-value]  # with a tuple in front Keras packs a tuple

    def _view(self, x: Structure, number: int | Tensor, view: int) -> Structure:
        if self.augmenter is None:
            return x
        seed = self.seed, tf.cast(number, "int64") * self.views + view
        if isinstance(self.augmenter, ImageAugmenter):
            return self.augmenter.program(x, tf.stack([tf.cast(part, "int32") for part in seed]))
        return draw(self.augmenter, x, seed)

    def _check_views_can_be_made(self, x: Structure) -> None:
        if isinstance(x, tuple):
            return
        if self.paired:
            raise ValueError(
                f"ContrastiveModel of {self.views} encoders takes a tuple with one input for each. Received: a single "
                "input. Pass x=(a, b), one argument: fit((a, b)); in a tf.data element ((a, b),) or ((a, b), y)."
            )
        if self.augmenter is None and self.views > 1:
            raise ValueError(
                f"ContrastiveModel needs {self.views} different views of each sample. Received: samples without "
                "views, and no augmenter. Pass `augmenter=`, for example keras_tfcl.layers.image_augmenter('photos', "
                "image_shape), or ready-made views as a tuple: x=(view_1, view_2), in a tf.data element "
                "((view_1, view_2),) or ((view_1, view_2), y). With labels and supervised=True, one view is enough: "
                "pass views=1."
            )

    def _check_shapes(self, views: Iterable[Structure]) -> None:
        views = list(views)
        if not self.paired and any(_sizes(view) != _sizes(views[0]) for view in views[1:]):
            shapes = [tf.nest.map_structure(lambda part: tuple(part.shape), view) for view in views]
            raise ValueError(f"The views of a sample must have one shape. Received: {shapes}. Crop or resize them.")


def _sizes(view: Structure) -> list[tuple[int | None, ...]]:
    """The sizes that the views of a sample share.

    Only the first array need have a row for each sample: the others may list the parts of samples of unequal sizes,
    such as the nodes of graphs. Images may differ in height and width (multi-crop).
    """
    first, *others = tf.nest.flatten(view)
    shape = tuple(first.shape)
    if len(shape) == 4 and not others:
        shape = (shape[0], shape[3])
    return [shape, *(tuple(other.shape)[1:] for other in others)]


class _AugmentedPyDataset(keras.utils.PyDataset):
    """Augments the batches of another PyDataset, in its workers."""

    def __init__(
        self, dataset: keras.utils.PyDataset, pipeline: ViewPipeline, step: Callable[[], int], training: bool
    ) -> None:
        # TensorFlow hangs in a forked process: its workers are threads where there is something to augment.
        processes = dataset.use_multiprocessing and pipeline.augmenter is None
        super().__init__(dataset.workers, processes, dataset.max_queue_size)
        self._dataset, self._pipeline, self._step = dataset, pipeline, step
        self._first_step = self._first_of_run = step()
        self._look = pipeline._first_batch(training)

    @property
    def num_batches(self) -> int | None:
        return self._dataset.num_batches

    def __getitem__(self, index: int) -> tuple[Structure, ...]:
        batch, number = self._dataset[index], self._first_step + index
        if self.use_multiprocessing:  # without TensorFlow
            self._pipeline._check_views_can_be_made(keras.utils.unpack_x_y_sample_weight(batch)[0])
            return self._pipeline._batch(batch, number, is_first=False, look=None)
        return self._pipeline._checked_batch(batch, number, number == self._first_of_run, self._look)

    def on_epoch_begin(self) -> None:
        self._first_step = self._step()
        self._dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._dataset.on_epoch_end()


def _one_start(step: Callable[[], int]) -> tf.data.Dataset:
    """The step at which one epoch starts, which is read when it does."""
    read = tf.data.Dataset.from_tensors(0)
    return read.map(lambda _: tf.ensure_shape(tf.numpy_function(lambda: np.int64(step()), [], tf.int64), ()))


def check_batch_size(batch_size: int, rows: int | None) -> None:
    """Raises ValueError for a batch size that is not a positive integer, or larger than the data."""
    positive_integer("batch_size", batch_size, "Leave it out for batches of 32.")
    if rows is not None and batch_size > rows:
        raise ValueError(
            f"`batch_size` must not exceed the number of samples. Received: batch_size={batch_size} for {rows} "
            f"samples. Use batch_size={rows} or less, or leave it out."
        )


def _pack(x: Structure, y: Structure | None, sample_weight: Structure | None) -> Structure:
    if y is None and sample_weight is not None:
        raise ValueError("`sample_weight` needs y. Received: sample_weight and no y. Pass y too: labels, or zeros.")
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
