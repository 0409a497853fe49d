"""Checks views and labels in the first batch of a run, before time is spent on training with them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.data.draws import REMEDY
from keras_tfcl.typing import Augmenter, Structure, Tensor

LOOKED_AT = 64  # samples, so that large images cost little
FEWEST = 4  # samples, below which views may be equal by chance
FEW_POSITIVES = 0.25  # share of the samples of a batch
ALONE = (
    "The first batch has one sample, so that it has no negatives and most losses are 0. Use larger batches, or a "
    "queue: momentum=0.999, queue_size=4096."
)


class FirstBatch:
    """Warns once about a first batch that cannot train the model.

    Args:
        augmenter: what makes the views. Its method `check_range(x)` is called, if it has one.
        labels_decide: whether samples with equal labels are positives.
        in_batch: whether all negatives are samples of the batch.
        paired: whether views are inputs of different encoders, so that they are not compared.
    """

    def __init__(self, augmenter: Augmenter | None, labels_decide: bool, in_batch: bool, paired: bool) -> None:
        self._augmenter = augmenter
        self._labels_decide = labels_decide
        self._in_batch = in_batch
        self._paired = paired
        self._seen = False

    def notice(
        self,
        is_first: bool | Tensor,
        x: Structure,
        views: Callable[[], tuple[Structure, ...]],
        y: Tensor | None = None,
    ) -> None:
        """To be called with each batch, in eager mode or while a data set is traced.

        Args:
            is_first: whether the batch is the first one, bool or bool tensor.
            x: what the views were made of: samples, or the views themselves.
            views: function that returns V batches of views, which is called if the batch is the first one.
            y: labels, if any.
        """
        y = y.get("labels") if isinstance(y, dict) else y

        def look() -> Tensor:
            made = views()
            batch: dict[str, Structure] = {"views": made}
            if not isinstance(x, tuple):
                batch["samples"] = x
            if self._labels_decide and len(made) == 1 and y is not None:
                batch["labels"] = y

            def look_at(*leaves: np.ndarray) -> np.bool_:
                self._look(**tf.nest.pack_sequence_as(batch, leaves))
                return np.bool_(True)

            return tf.numpy_function(look_at, tf.nest.flatten(batch), tf.bool)

        tf.cond(is_first, look, lambda: False)

    def _look(
        self, views: tuple[Structure, ...], samples: Structure | None = None, labels: np.ndarray | None = None
    ) -> None:
        if self._seen:
            return
        self._seen = True  # Keras may read the first batch twice, to learn its shapes
        if samples is not None and self._augmenter is not None and hasattr(self._augmenter, "check_range"):
            self._augmenter.check_range(samples)
        if self._in_batch and len(keras.tree.flatten(views)[0]) == 1:
            warnings.warn(ALONE, stacklevel=2)
        elif not self._paired:
            for finding in _findings(samples, views, labels):
                warnings.warn(finding, stacklevel=2)


def _findings(samples: Structure | None, views: tuple[Structure, ...], labels: np.ndarray | None) -> Iterator[str]:
    samples, views = keras.tree.map_structure(lambda part: None if part is None else part[:LOOKED_AT], (samples, views))
    if _are_equal(views):
        yield (
            "The views of each sample are equal in the first batch, so that the loss has nothing to teach. Make views "
            f"that differ. {REMEDY} Where the encoder itself draws noise, such as dropout, this may be as it should."
        )
    elif samples is not None and len(_distinct(views[0])) < len(_distinct(samples)) / 2:
        yield (
            "Different samples come out of the augmenter as the same view in the first batch, so that nothing tells "
            "them apart. Check that the augmenter uses its argument, and the range of values that it expects."
        )
    elif samples is not None and _change_alike(samples, views[0]):
        yield (
            "The augmenter changes all samples of the first batch in the same way, so that the encoder need not ignore "
            "the change. Draw for each sample: tf.random.normal(tf.shape(x)), or shape (B, 1, 1, 1) for images."
        )
    if labels is not None:
        yield from _few_positives(labels)


def _are_equal(views: tuple[Structure, ...]) -> bool:
    first, *others = [keras.tree.flatten(view) for view in views]
    enough = len(first[0]) >= FEWEST
    return enough and any(all(map(np.array_equal, first, other)) for other in others)


def _distinct(batch: Structure) -> set[tuple[bytes, ...]]:
    leaves = keras.tree.flatten(batch)
    return {
        tuple(row if isinstance(row, bytes) else row.tobytes() for row in rows) for rows in zip(*leaves, strict=True)
    }


def _change_alike(samples: Structure, view: Structure) -> bool:
    """Whether some array has the same number added to all its samples."""
    before, after = keras.tree.flatten(samples), keras.tree.flatten(view)
    return len(before) == len(after) and any(map(_is_shifted, before, after))


def _is_shifted(before: np.ndarray, after: np.ndarray) -> bool:
    if before.shape != after.shape or after.dtype.kind != "f" or before.dtype.kind not in "fiu" or len(after) < FEWEST:
        return False
    with np.errstate(all="ignore"):  # StopOnNonFinite names what is not finite
        change = after.astype("float64") - before
        largest = np.abs(change).max()
        return bool(largest > 0 and np.abs(change - change[0]).max() < 1e-4 * largest)


def _few_positives(labels: np.ndarray) -> Iterator[str]:
    _, counts = np.unique(labels, return_counts=True)
    samples, found = labels.size, int(counts[counts > 1].sum())
    if labels.shape in ((samples,), (samples, 1)) and found < FEW_POSITIVES * samples:
        yield (
            f"Only {found} of {samples} samples ({found / samples:.0%}) of the first batch have a "
            "positive, another sample with their label; all others have no loss. Use larger batches, batches with "
            "several samples of each class, or views=2 with an augmenter."
        )
