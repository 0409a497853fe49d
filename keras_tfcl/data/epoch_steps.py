"""A data set that is created again for each pass, as a function of the step at which the pass starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_tfcl.data.open_iterators import close_iterators_at_exit


class EpochSteps:
    """The passes over a data set whose order and random views follow from a seed and the step at which a pass starts.

    `ContrastiveModel.fit` starts them at the optimizer's step, so that a run that was killed and resumed sees the same
    batches.

    Args:
        make: function from a data set of starts, int64 `(2,)` each: the step at which an epoch starts, and `done`, to
            the batches of these epochs.

    Attributes:
        done: number of batches that the epochs of `fit` leave out, since a run that was killed in the middle of an
            epoch has had them: its step is then `done` steps after the start of the epoch.
    """

    def __init__(self, make: Callable[[tf.data.Dataset], tf.data.Dataset]) -> None:
        self.done = 0
        self._make = make
        close_iterators_at_exit()

    def counted(self) -> tf.data.Dataset:
        """The batches of one epoch; the passes over it start at steps 0, 1, 2 and so on."""
        numbers = itertools.count()
        read = tf.data.Dataset.from_tensors(0)
        return self.passes(
            read.map(lambda _: tf.ensure_shape(tf.numpy_function(lambda: np.int64(next(numbers)), [], tf.int64), ()))
        )

    def passes(self, starts: tf.data.Dataset) -> tf.data.Dataset:
        """The batches of epochs, one after the other; `starts` are the steps, int64, of their first batches."""
        return self._make(starts.map(lambda first: tf.stack([first - self.done, self.done])))
