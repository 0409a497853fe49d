"""A gradient of its own for a function that loops over tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import tensorflow as tf

Gradient = Callable[..., list[tf.Tensor]]


def first_order(function: Callable[..., tuple[Sequence[tf.Tensor], Gradient]]) -> Callable[..., Sequence[tf.Tensor]]:
    """`tf.custom_gradient` that no tape looks into, and whose gradient has none.

    A tape that recorded the loops would hold all tiles. Every tape would in eager mode, and in a graph a persistent one
    or one around another.

    Args:
        function: gives a list of results, and a function from their gradients to those of the arguments.
    """

    @tf.custom_gradient
    def once(*inputs: tf.Tensor) -> tuple[Sequence[tf.Tensor], Gradient]:
        results, gradient = function(*map(tf.stop_gradient, inputs))

        @tf.custom_gradient
        def gradients(*cotangents: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., NoReturn]]:
            return gradient(*map(tf.stop_gradient, cotangents[: len(results)])), _refuse

        return results, lambda *cotangents: gradients(*cotangents, *inputs)  # so that a second tape sees the inputs

    return once


def _refuse(*_: tf.Tensor) -> NoReturn:
    raise NotImplementedError(
        "The gradient of a loss in tiles cannot be differentiated. Received: a second derivative, such as the gradient "
        "of a gradient penalty, or forward-mode differentiation. Pass block_size='dense' to the loss."
    )
