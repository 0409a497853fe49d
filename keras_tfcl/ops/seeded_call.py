from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_tfcl.typing import Structure


def is_generator_state(variable: keras.Variable) -> bool:
    """Whether a variable has the form of the state of a random generator."""
    return tuple(variable.shape) == (2,) and variable.dtype.startswith(("int", "uint"))


def seeded_call(
    function: Callable[[], Structure], states: Sequence[keras.Variable], seed: tf.Tensor
) -> tuple[Structure, bool]:
    """What a function of Keras layers computes when their random generators start from a given seed.

    Args:
        function: calls the layers.
        states: the states of their random generators, `(2,)` each. They are neither read nor written.
        seed: integer tensor `(2,)`.

    Returns:
        What the function returns, and whether it changed no other state, such as the state of Keras' global generator.
    """
    # Keras' functional mode: inside the scope every seed generator reads the seed given here instead of its
    # variable, and counts on from it without writing anything back.
    seeds = tf.random.split(tf.cast(seed, "int64"), num=max(len(states), 1))  # (states, 2)
    with keras.StatelessScope([(state, seeds[i]) for i, state in enumerate(states)]) as scope:
        result = function()
    return result, len(scope.state_mapping) <= len(states)
