"""Gradient caching: the gradient of a large batch with the encoder's memory of a small one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

Carry = Any


def encode_in_slices(encoder: keras.Model, x: Any, rows: int, training: bool | None = None) -> Any:
    """Gives `encoder(x, training=training)` and its exact gradient, at most `rows` rows of x at a time.

    The forward pass keeps the features and nothing else. The backward pass computes each slice once more, now with its
    gradient, and adds up what the slices give: between a third and half more time for the encoder, and the memory of
    one slice instead of the whole batch, beside x and the features.

    State of the encoder:
        random seeds go on from slice to slice, and the backward pass starts them where the forward pass did: dropout
        drops the same units in both;
        batch normalisation normalises each slice by the slice's own statistics, and its moving averages are updated
        once a call, by the mean of what the slices ask for (weighted by their rows).

    There is no gradient with respect to x, and none of second order.

    Args:
        encoder: Keras model from `(B, ...)` to `(B, F)`.
        x: a tensor or a structure of tensors with B rows each.
        rows: largest number of rows in a slice; a last slice takes what is left.
        training: passed on.

    Returns:
        `(B, F)`.

    Raises:
        ValueError: if the encoder adds losses of its own (which belong to no slice), or draws random numbers from a
            generator that is none of its attributes (which could not be replayed).

    Example:

    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> x = tf.random.normal((10, 4))
    >>> bool(tf.reduce_all(tf.abs(encode_in_slices(encoder, x, 4) - encoder(x)) < 1e-5))
    True

    Reference: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    arXiv 2101.06983.
    """
    static = keras.tree.flatten(x)[0].shape[0]
    if not encoder.built or (static is not None and static <= rows):
        return encoder(x, training=training)
    slices = _Slices(encoder, x, rows, training)

    @tf.custom_gradient
    def features_of(*weights: Any) -> tuple[Any, Callable[..., list[Any]]]:
        outputs = slices.forward(list(weights))
        return outputs, lambda upstream, *_: slices.backward(list(weights), upstream)

    features, *state = features_of(*[v.value for v in slices.weights])
    for variable, value in zip([*slices.counters, *slices.averages], state, strict=True):
        variable.assign(value)
    return features


class _Slices:
    """The passes over the slices, as functions of the weights."""

    def __init__(self, encoder: keras.Model, x: Any, rows: int, training: bool | None) -> None:
        self.encoder, self.rows, self.training = encoder, rows, training
        self.x = keras.tree.map_structure(tf.convert_to_tensor, x)
        first = keras.tree.flatten(self.x)[0]
        self.count = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
        self.weights = encoder.trainable_variables
        kept = encoder.non_trainable_variables
        self.counters = [v for v in kept if "float" not in v.dtype]  # seeds above all
        self.averages = [v for v in kept if "float" in v.dtype]
        self.at_start = [[tf.identity(v.value) for v in part] for part in (self.counters, self.averages)]

    def forward(self, weights: list[Any]) -> list[Any]:
        """The features (B, F), and the new values of counters and averages."""
        counters, averages = self.at_start

        def step(start: Any, size: Any, carry: Carry) -> Carry:
            features, counters, changes = carry
            part, counters, updated = self._encode(start, size, weights, counters)
            features = tf.tensor_scatter_nd_update(features, (start + tf.range(size))[:, None], part)
            share = tf.cast(size / self.count, "float32")
            # Changes are added up, not values: what no slice changes stays as it is to the last bit.
            pairs = zip(changes, updated, averages, strict=True)
            return features, counters, [c + tf.cast(share, a.dtype) * (u - a) for c, u, a in pairs]

        empty = self._empty_features()
        features, counters, changes = self._each(step, (empty, counters, [tf.zeros_like(a) for a in averages]))
        return [features, *counters, *[a + c for a, c in zip(averages, changes, strict=True)]]

    def backward(self, weights: list[Any], upstream: Any) -> list[Any]:
        """The gradient of every weight."""

        def step(start: Any, size: Any, carry: Carry) -> Carry:
            counters, sums = carry
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                part, counters, _ = self._encode(start, size, weights, counters)
            slopes = tape.gradient(part, weights, upstream[start : start + size], unconnected_gradients="zero")
            return counters, [s + tf.convert_to_tensor(slope) for s, slope in zip(sums, slopes, strict=True)]

        return self._each(step, (self.at_start[0], [tf.zeros_like(w) for w in weights]))[1]

    def _encode(self, start: Any, size: Any, weights: list[Any], counters: list[Any]) -> tuple[Any, list, list]:
        """Features of one slice, and the values that it leaves behind; no variable is read or written."""
        part = keras.tree.map_structure(lambda t: t[start : start + size], self.x)
        variables = [*self.weights, *self.counters, *self.averages]
        values = [*weights, *counters, *self.at_start[1]]
        with keras.StatelessScope(list(zip(variables, values, strict=True)), collect_losses=True) as scope:
            features = self.encoder(part, training=self.training)
        self._check(scope, len(variables))
        after = [[scope.get_current_value(v) for v in kept] for kept in (self.counters, self.averages)]
        return features, *after

    def _check(self, scope: keras.StatelessScope, known: int) -> None:
        if scope.losses:
            raise ValueError(
                "`encoder_batch_size` needs an encoder without losses of its own. Received: an encoder that calls "
                "add_loss, or has a layer with an activity_regularizer. Leave either out; weight regularizers are fine."
            )
        if len(scope.state_mapping) > known:
            raise ValueError(
                "`encoder_batch_size` needs an encoder whose state is in its own variables, so that it can be "
                "replayed. Received: an encoder that draws from a random generator that is none of its attributes. "
                "Set `self.generator = keras.random.SeedGenerator(seed)` in that layer and pass it on as `seed`."
            )

    def _empty_features(self) -> Any:
        part = keras.tree.map_structure(lambda t: keras.KerasTensor((self.rows, *t.shape[1:]), t.dtype.name), self.x)
        output = self.encoder.compute_output_spec(part)
        return tf.zeros((self.count, output.shape[-1]), output.dtype)

    def _each(self, step: Callable[[Any, Any, Carry], Carry], carry: Carry) -> Carry:
        """Folds `step(start, size, carry)` over the slices, the shorter one last."""
        full = self.count // self.rows
        rest = self.count - full * self.rows
        _, carry = tf.while_loop(
            lambda i, _: i < full,
            lambda i, carry: (i + 1, step(i * self.rows, self.rows, carry)),
            (tf.constant(0), carry),
            parallel_iterations=1,  # else TensorFlow has ten slices in memory at a time
            maximum_iterations=full if isinstance(full, int) else None,
        )
        if isinstance(rest, int):
            return step(full * self.rows, rest, carry) if rest else carry
        return tf.cond(rest > 0, lambda: step(full * self.rows, rest, carry), lambda: carry)
