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
    """

    def __init__(self) -> None:
        self.first_step: Callable[[], int] = itertools.count().__next__

    def passes(
        self, epoch: Callable[[tf.Tensor], tf.data.Dataset], on_start: Callable[[], None] = lambda: None
    ) -> tf.data.Dataset:
        """The data set that `epoch(first_step)` makes, created again at each pass; `on_start` is called before."""

        def start() -> np.int64:
            on_start()
            return np.int64(self.first_step())

        first = tf.data.Dataset.from_tensors(0)
        first = first.map(lambda _: tf.ensure_shape(tf.numpy_function(start, [], tf.int64), ()))
        return first.flat_map(epoch)
