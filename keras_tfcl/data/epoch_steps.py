"""A data set that is created again for each pass, as a function of the step at which the pass starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_tfcl.data.open_iterators import close_iterators_at_exit


class EpochSteps:
    """The number of the step at which a pass over a data set starts.

    Order and random views follow from it and a seed. `ContrastiveModel.fit` sets `first_step` to the optimizer's step,
    so that a run that was killed and resumed sees the same batches. Elsewhere passes are counted.

    Args:
        make: function from a data set of starts, int64 `(2,)` each: the step at which an epoch starts, and `done`, to
            the batches of these epochs.

    Attributes:
        first_step: function that returns the number of the first step of the next pass.
        done: number of batches that the next passes leave out, since a run that was killed in the middle of an epoch
            has had them: such a pass starts `done` steps later than its epoch.
    """

    def __init__(self, make: Callable[[tf.data.Dataset], tf.data.Dataset]) -> None:
        self.first_step: Callable[[], int] = itertools.count().__next__
        self.done = 0
        self._make = make
        close_iterators_at_exit()

    def one_pass(self) -> tf.data.Dataset:
        """The batches of one epoch, created again at each pass."""

        def start() -> np.ndarray:
            return np.array([self.first_step() - self.done, self.done], "int64")

        first = tf.data.Dataset.from_tensors(0)
        return self._make(first.map(lambda _: tf.ensure_shape(tf.numpy_function(start, [], tf.int64), (2,))))

    def passes(self, starts: tf.data.Dataset) -> tf.data.Dataset:
        """The batches of the whole epochs that start at some steps, int64, one after the other."""
        return self._make(starts.map(lambda first: tf.stack([first, 0])))
