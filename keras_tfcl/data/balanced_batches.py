"""Batches with several samples of each of their classes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tfcl.data.epoch_steps import EpochSteps
from keras_tfcl.typing import Structure
from keras_tfcl.validation import positive_integer


def balanced_batches(
    x: Structure | tf.data.Dataset, y: ArrayLike | None, classes: int, per_class: int, seed: int = 0
) -> tf.data.Dataset:
    """Makes batches of `per_class` samples of each of `classes` classes, for supervised contrastive losses.

    If there are many classes, the samples of a random batch seldom share one: with 1,000 classes of two samples each,
    1.5 % of the anchors in a batch of 32 have a positive. Here every anchor has `per_class - 1` positives. Classes are
    drawn uniformly, so that their counts differ by at most one. The samples of a class come in random order, and all of
    them come before any comes again.

    Args:
        x: samples: an array, or a structure of arrays, of N samples; or a `tf.data.Dataset` of single samples
            `(x, y)`, which is read into memory.
        y: class labels, integers `(N,)`; None where x is a data set.
        classes: number of classes in a batch, at least 2.
        per_class: number of samples of each, at least 2. A class with fewer samples repeats them.
        seed: integer of the order. Defaults to 0.

    Returns:
        `tf.data.Dataset` of `(x, y)` in batches of `classes * per_class`. A pass has as many batches as fit into N
        samples, at least one. The order is a function of the seed and the step at which a pass starts.

    Raises:
        ValueError: numbers out of range, labels that are not integers or not as many as samples, fewer classes than
            requested.

    Example:

    >>> x, y = np.arange(12.0)[:, None], np.repeat(np.arange(6), 2)
    >>> batch, labels = next(iter(balanced_batches(x, y, classes=3, per_class=2)))
    >>> np.unique(labels, return_counts=True)[1]
    array([2, 2, 2])

    Reference: Musgrave et al. 2020, "A Metric Learning Reality Check", arXiv 2003.08505, section 4.
    """
    if isinstance(x, tf.data.Dataset):
        x, y = _read(x, y)
    labels = np.asarray(y)
    samples = tf.nest.flatten(x)
    positive_integer("classes", classes, "A loss compares classes.", least=2)
    positive_integer("per_class", per_class, "An anchor needs a positive.", least=2)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise ValueError(
            f"`y` must be integer labels of shape (N,). Received: shape={labels.shape}, dtype={labels.dtype}. Number "
            "them, for example with numpy.unique(labels, return_inverse=True)[1]."
        )
    if {len(array) for array in samples} != {len(labels)}:
        raise ValueError(
            f"`y` must have one label for each sample. Received: {len(labels)} labels for "
            f"{[len(array) for array in samples]} samples."
        )
    known, numbers = np.unique(labels, return_inverse=True)
    if classes > len(known):
        raise ValueError(
            f"`classes` must not exceed the number of classes. Received: classes={classes} for {len(known)} classes. "
            f"Pass classes={len(known)} or less."
        )
    members = [np.flatnonzero(numbers == number) for number in range(len(known))]
    count = max(len(labels) // (classes * per_class), 1)
    with tf.device("CPU"):
        x, targets = tf.nest.map_structure(tf.convert_to_tensor, x), tf.constant(labels)

    def order(first: int) -> np.ndarray:
        return _order(members, classes, per_class, count, np.random.default_rng([seed, first]))

    def epoch(first: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        indices = tf.ensure_shape(tf.numpy_function(order, [first], tf.int64), (count, classes * per_class))
        return (
            tf.data.Dataset.from_tensor_slices(indices)
            .skip(done)
            .map(
                lambda chosen: (
                    tf.nest.map_structure(lambda array: tf.gather(array, chosen), x),
                    tf.gather(targets, chosen),
                ),
                tf.data.AUTOTUNE,
            )
        )

    def batches(starts: tf.data.Dataset) -> tf.data.Dataset:
        return starts.flat_map(lambda numbers: epoch(numbers[0], numbers[1])).prefetch(tf.data.AUTOTUNE)

    steps = EpochSteps(batches)
    dataset = steps.counted().apply(tf.data.experimental.assert_cardinality(count))
    dataset.steps = steps
    return dataset


def _order(members: list[np.ndarray], classes: int, per_class: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of samples `(count, classes * per_class)`."""
    waiting: list[list[int]] = [[] for _ in members]  # samples of each class that are still to come
    queue: list[int] = []  # classes that are still to come
    batches = np.empty((count, classes, per_class), np.int64)
    for batch in batches:
        chosen: list[int] = []
        while len(chosen) < classes:
            if not any(number not in chosen for number in queue):
                queue += rng.permutation(len(members)).tolist()
            position = next(p for p, number in enumerate(queue) if number not in chosen)
            chosen.append(queue.pop(position))
        for row, number in zip(batch, chosen, strict=True):
            while len(waiting[number]) < per_class:
                waiting[number] += rng.permutation(members[number]).tolist()
            row[:] = waiting[number][:per_class]
            del waiting[number][:per_class]
    return batches.reshape(count, -1)


def _read(dataset: tf.data.Dataset, y: ArrayLike | None) -> tuple[Structure, np.ndarray]:
    """The samples and labels of a data set as arrays."""
    if y is not None or not isinstance(dataset.element_spec, tuple) or len(dataset.element_spec) != 2:
        raise ValueError(
            "A data set must have elements (x, y), one sample each, and y beside it must be None. Received: elements "
            f"{dataset.element_spec}. Unbatch it, and map it to (x, y)."
        )
    samples = [*dataset.as_numpy_iterator()]
    if not samples:
        raise ValueError("`x` must hold at least one sample. Received: an empty data set.")
    return tf.nest.map_structure(lambda *arrays: np.stack(arrays), *[x for x, _ in samples]), np.array(
        [label for _, label in samples]
    )
