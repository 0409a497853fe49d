"""Runs layers on other weights than their own."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.models.synthetic_batch import synthetic_batch
from keras_tfcl.typing import Structure, Tensor


class SubstitutedWeights(keras.StatelessScope):
    """A scope in which layers read and write other variables instead of their own.

    Args:
        pairs: a variable of a layer and its substitute, which is another variable, or a tensor if nothing is written.
    """

    def __init__(self, pairs: Sequence[tuple[keras.Variable, Tensor | keras.Variable]]) -> None:
        super().__init__([(own, keras.ops.convert_to_tensor(other)) for own, other in pairs])
        self.read: set[int] = set()
        self._substitutes = {id(own): other for own, other in pairs}
        self._updates: dict[int, tuple[keras.Variable, Tensor]] = {}

    def get_current_value(self, variable: keras.Variable) -> Tensor:
        """Returns the value that a layer reads, and records the variable in `read`, by id."""
        self.read.add(id(variable))
        return super().get_current_value(variable)

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        """Stores the value that a layer writes."""
        super().add_update(update)
        self._updates[id(update[0])] = update

    def assign_updates(self) -> None:
        """Writes, after the scope, the values that layers wrote in it.

        A variable without a substitute, such as a random seed, is written itself.
        """
        here = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        for key, (variable, value) in self._updates.items():
            if getattr(value, "graph", None) not in (None, here):
                raise ValueError(
                    "`momentum` needs an encoder that writes to its variables outside of loops and branches. Received: "
                    f"a write to {variable.path} inside a tf.while_loop or tf.cond. Compute the new value there, "
                    "return it, and assign it after the loop."
                )
            self._substitutes.get(key, variable).assign(value)


def check_substitution(network: keras.Model) -> None:
    """Raises ValueError if a layer does not read its weights in each call, so that they cannot be replaced.

    The network runs on a synthetic batch with its own weights and with a copy of them. Both must give the same output,
    and a trainable weight that was not read must not change it. The state of the network is not changed.
    """
    state = [(variable, tf.identity(variable.value)) for variable in network.non_trainable_variables]
    try:
        broken = _not_substituted(network, synthetic_batch(network))
    finally:
        for variable, value in state:
            variable.assign(value)
    if broken:
        raise ValueError(
            "`momentum` runs the encoder's layers on an average of their weights, so they must read their weights in "
            f"each call. Received: {broken}. Take a @tf.function off that layer's methods, make what it trains with "
            "`add_weight` instead of tf.Variable, and draw random numbers only where training=True."
        )


def _not_substituted(network: keras.Model, batch: Structure) -> str:
    """The names of the weights that the copy does not reach; empty if it reaches all."""
    try:
        expected = _output(network, batch)
    except Exception:  # the batch is not one that the network takes, such as an index out of its range
        return ""
    with SubstitutedWeights([(weight, tf.identity(weight.value)) for weight in network.weights]) as scope:
        received = _output(network, batch)
    unread = [weight for weight in network.trainable_weights if id(weight) not in scope.read]
    unread = [weight.path for weight in unread if _matters(weight, network, batch, expected)]
    if unread or _same(received, expected):
        return ", ".join(unread)
    return f"{network.name}, whose outputs differ between two calls"


def _matters(weight: keras.Variable, network: keras.Model, batch: Structure, expected: np.ndarray) -> bool:
    """Whether another value of the weight changes the output."""
    value = tf.identity(weight.value)
    weight.assign(value + tf.cast(1.0, value.dtype))
    try:
        return not _same(_output(network, batch), expected)
    finally:
        weight.assign(value)


def _output(network: keras.Model, batch: Structure) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(network(batch, training=False)), "float64")


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b, rtol=1e-3, atol=1e-3 * (np.abs(b).max(initial=0) + 1e-6), equal_nan=True)
