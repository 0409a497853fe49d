"""A data set that is created again for each pass, as a function of the step at which the pass starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf


class EpochSteps:
    """The number of the step at which a pass over a data set starts.

    Order and random views follow from it and a seed. `ContrastiveModel.fit` sets `first_step` to the optimizer's step,
    so that a run that was killed and resumed sees the same batches. Elsewhere passes are counted.

    Attributes:
        first_step: function that returns the number of the first step of the next pass.
        done: number of batches that the next passes leave out, since a run that was killed in the middle of an epoch
            has had them: such a pass starts `done` steps later than its epoch.
    """

    def __init__(self) -> None:
        self.first_step: Callable[[], int] = itertools.count().__next__
        self.done = 0

    def passes(
        self,
        epoch: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset],
        on_start: Callable[[int], None] = lambda done: None,
    ) -> tf.data.Dataset:
        """The data set that `epoch(first step of the epoch, done)` makes, made anew at each pass.

        `on_start(done)` is called before.
        """

        def start() -> np.ndarray:
            on_start(self.done)
            return np.array([self.first_step() - self.done, self.done], "int64")

        first = tf.data.Dataset.from_tensors(0)
        first = first.map(lambda _: tf.ensure_shape(tf.numpy_function(start, [], tf.int64), (2,)))
        return first.flat_map(lambda numbers: epoch(numbers[0], numbers[1]))
