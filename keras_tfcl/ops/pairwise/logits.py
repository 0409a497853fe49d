"""From cosines to logits inside a tile: the scaling itself, with what it is trained by as explicit inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.ops.held import variables_of
from keras_tfcl.ops.scaling import arctanh_exp, arctanh_logits, temperature_logits
from keras_tfcl.typing import Tensor
from keras_tfcl.validation import positive_number


class Logits:
    """A scaling as a pure function of cosines and of the values that it is differentiated by.

    A function with a gradient of its own (`tf.custom_gradient`) is differentiated by its arguments and by nothing that
    it reads otherwise. So the values of a scaling's trainable variables become arguments, and `at` puts others in their
    place.

    Args:
        scaling: a `keras_tfcl.Scaling`, a function of cosines, a temperature (a number or a scalar tensor), or
            `"arctanh"`.
        holder: what else is called in tiles and may read Keras variables of its own.
    """

    def __init__(self, scaling: float | str | Tensor | Callable[[Tensor], Tensor], holder: object = None) -> None:
        self.scaling = scaling
        self.values: list[Tensor] = []
        if tf.is_tensor(scaling) or isinstance(scaling, (tf.Variable, keras.Variable)):
            self.values = [tf.convert_to_tensor(scaling)]
        elif not callable(scaling) and scaling != "arctanh":
            positive_number("scaling", scaling, "Or pass 'arctanh'.")
        variables = variables_of([scaling if callable(scaling) else None, holder])
        self.variables = [v for v in variables if v.trainable]
        self.values += [tf.convert_to_tensor(v) for v in self.variables]
        self.fixed = [(v, tf.convert_to_tensor(v)) for v in variables if not v.trainable]

        # The gradient by the scale of a linear scaling needs no sum over tiles.
        self.linear = getattr(scaling, "linear", not callable(scaling) and not isinstance(scaling, str))
        self.linear = self.linear and getattr(scaling, "positive_cosine", None) is None

    @property
    def values_in_tiles(self) -> list[Tensor]:
        """The values whose gradient is added up in tiles."""
        return [] if self.linear else self.values

    def gradient_by_values(self, total: tf.Tensor) -> list[tf.Tensor]:
        """The gradients by the values of a linear scaling, from the gradient by the logarithm of its factor."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.values)
            factor = self(tf.ones((), total.dtype))
        return tape.gradient(factor, self.values, total / factor, unconnected_gradients="zero")

    def at(self, values: Sequence[Tensor]) -> Logits:
        """The same scaling at other values."""
        other = object.__new__(Logits)
        vars(other).update(vars(self), values=list(values))
        return other

    def __call__(self, cosines: tf.Tensor) -> tf.Tensor:
        if callable(self.scaling):
            return tf.convert_to_tensor(self.run(self.scaling, cosines))
        if isinstance(self.scaling, str):
            return arctanh_logits(cosines)
        return temperature_logits(cosines, self.values[0] if self.values else self.scaling)

    def exp(self, cosines: tf.Tensor, power: float, shift: float) -> tf.Tensor:
        """`exp(power * logit + shift)`."""
        if hasattr(self.scaling, "exp"):
            return tf.convert_to_tensor(self.run(self.scaling.exp, cosines, power, shift))
        if isinstance(self.scaling, str):
            return arctanh_exp(cosines, 2.0 * power, shift)
        return tf.exp(power * self(cosines) + shift)

    def with_margin(self, cosines: tf.Tensor, positive: tf.Tensor | bool = True) -> tf.Tensor:
        """The cosines, with those of positives replaced if the scaling has a margin."""
        function = getattr(self.scaling, "positive_cosine", None)
        return cosines if function is None else tf.where(positive, self.run(function, cosines), cosines)

    def range(self) -> tuple[float, float]:
        """The lowest and the highest logit of all cosines, infinite where they may change."""
        if hasattr(self.scaling, "logit_range"):
            return self.scaling.logit_range()
        return (-math.inf, math.inf) if self.values or self.fixed else sampled_range(self)

    def run(self, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        """`function(*arguments)`, in which the variables have the current values."""
        values = self.values[len(self.values) - len(self.variables) :]  # behind a temperature that is a tensor
        mapping = [*zip(self.variables, values, strict=True), *self.fixed]
        if not mapping:
            return function(*arguments)
        with keras.StatelessScope(state_mapping=mapping):
            return function(*arguments)

    def explains(self, function: Callable[..., object], *arguments: object) -> bool:
        """Whether `function` of such arguments (`tf.TensorSpec`) reads no tensors or variables but these.

        A custom gradient would lose the gradients of others.
        """
        mapping = [(v, np.zeros(v.shape, v.dtype)) for v in [*self.variables, *(v for v, _ in self.fixed)]]

        def alone(*arguments: object) -> object:
            with keras.StatelessScope(state_mapping=mapping):
                return function(*arguments)

        captured = tf.function(alone, autograph=False).get_concrete_function(*arguments).captured_inputs
        return not any(x.dtype.is_floating or x.dtype == tf.resource for x in captured)

    @property
    def streams(self) -> bool:
        """Whether the scaling can be computed in tiles, with all its gradients."""
        scaling = self.scaling
        return not callable(scaling) or self.explains(
            lambda s: scaling(self.with_margin(s)), tf.TensorSpec([None, None])
        )


def sampled_range(scaling: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The lowest and the highest logit of 257 cosines from -1 to 1; infinite if one of them is not finite."""
    with tf.init_scope():
        logits = np.asarray(scaling(tf.linspace(tf.constant(-1.0), 1.0, 257)))
    return (float(logits.min()), float(logits.max())) if np.isfinite(logits).all() else (-math.inf, math.inf)
