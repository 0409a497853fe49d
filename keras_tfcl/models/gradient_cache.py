"""Gradient caching: the gradient of a large batch with the encoder's memory of a small one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import keras
import tensorflow as tf

from keras_tfcl.typing import Structure, Tensor

Carry = TypeVar("Carry")
Size: TypeAlias = int | Tensor
# What the passes hand from slice to slice: features, counters, changes of averages; counters, sums of gradients.
_Forward: TypeAlias = tuple[Tensor, list[Tensor], list[Tensor]]
_Backward: TypeAlias = tuple[list[Tensor], list[Tensor]]


def encode_in_slices(encoder: keras.Model, x: Structure, rows: int, training: bool | None = None) -> Tensor:
    """Computes `encoder(x, training=training)` with its exact gradient, at most `rows` samples at a time.

    The forward pass keeps the features only. The backward pass computes each slice again, now with its gradient, and
    adds the gradients of the slices. This takes between a third and a half more time in the encoder. Besides x and the
    features, it needs the memory of one slice instead of the whole batch.

    State of the encoder:
        Random seeds advance from slice to slice, and the backward pass starts from the seeds of the forward pass, so
        that dropout drops the same units in both.
        Batch normalisation uses the statistics of each slice. Its moving averages are updated once in each call, by
        the mean of the updates of the slices, weighted by their sizes.

    There is no gradient with respect to x, and no second-order gradient.

    Args:
        encoder: Keras model from `(B, ...)` to `(B, F)`.
        x: a tensor or a structure of tensors with B rows each.
        rows: largest number of samples in a slice; the last slice takes the rest.
        training: passed to the encoder.

    Returns:
        `(B, F)`.

    Raises:
        tf.errors.InvalidArgumentError: if a tensor of x has another number of rows.
        ValueError: if the encoder adds losses (which belong to no slice), or draws random numbers from a
            generator that is not among its attributes (which could not be replayed).

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
    def features_of(*weights: Tensor) -> tuple[Tensor, Callable[..., list[Tensor]]]:
        # Stopped, or an eager tape would keep what the forward pass is meant to forget.
        return slices.forward([tf.stop_gradient(w) for w in weights]), lambda upstream, *_: slices.backward(
            weights, upstream
        )

    weights = [tf.convert_to_tensor(variable.value) for variable in slices.weights]
    features, *state = features_of(*weights) if weights else slices.forward(weights)
    for variable, value in zip(slices.changed, state, strict=True):
        variable.assign(value)
    return features


class _Slices:
    """The passes over the slices, as functions of the weights."""

    def __init__(self, encoder: keras.Model, x: Structure, rows: int, training: bool | None) -> None:
        self.encoder, self.rows, self.training = encoder, rows, training
        first, *others = keras.tree.flatten(x)
        self.count = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
        for other in others:
            tf.debugging.assert_equal(tf.shape(other)[0], self.count, _NO_ROWS)
        self.x = keras.tree.map_structure(lambda t: _at_least(rows, tf.convert_to_tensor(t)), x)
        self.weights, self.state = encoder.trainable_variables, encoder.non_trainable_variables
        self.at_start = {id(variable): tf.identity(variable.value) for variable in self.state}
        self.counters: list[keras.Variable] = []  # mainly seeds; they advance from slice to slice
        self.averages: list[keras.Variable] = []  # of batch normalisation; start each slice where the step starts
        self.no_features = self._probe()

    @property
    def changed(self) -> list[keras.Variable]:
        """The state that a call of the encoder changes."""
        return [*self.counters, *self.averages]

    def forward(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The features (B, F), and the new values of counters and averages."""
        averages = self._start_of(self.averages)

        def step(start: Size, size: Size, carry: _Forward) -> _Forward:
            features, counters, changes = carry
            part, counters, updated = self._encode(start, size, weights, counters)
            features = tf.tensor_scatter_nd_update(features, (start + tf.range(size))[:, None], part)
            share = tf.cast(size / self.count, "float32")
            pairs = zip(changes, updated, averages, strict=True)
            return features, counters, [c + tf.cast(share, a.dtype) * (u - a) for c, u, a in pairs]

        zeros = [tf.zeros_like(a) for a in averages]
        features, counters, changes = self._each(step, (self.no_features, self._start_of(self.counters), zeros))
        return [features, *counters, *[a + c for a, c in zip(averages, changes, strict=True)]]

    def backward(self, weights: Sequence[Tensor], upstream: Tensor) -> list[Tensor]:
        """The gradient of every weight."""
        upstream = _at_least(self.rows, upstream)

        def step(start: Size, size: Size, carry: _Backward) -> _Backward:
            counters, sums = carry
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                part, counters, _ = self._encode(start, size, weights, counters)
            slopes = tape.gradient(part, weights, _rows(upstream, start, size), unconnected_gradients="zero")
            return counters, [s + tf.convert_to_tensor(slope) for s, slope in zip(sums, slopes, strict=True)]

        return self._each(step, (self._start_of(self.counters), [tf.zeros_like(w) for w in weights]))[1]

    def _encode(
        self, start: Size, size: Size, weights: Sequence[Tensor], counters: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Features of one slice, and the values of counters and averages after it."""
        keys = [id(variable) for variable in self.counters]
        features, scope = self._run(start, size, weights, self.at_start | dict(zip(keys, counters, strict=True)))
        after = [[scope.get_current_value(v) for v in part] for part in (self.counters, self.averages)]
        return features, after[0], after[1]

    def _run(
        self, start: Size, size: Size, weights: Sequence[Tensor], state: dict[int, Tensor]
    ) -> tuple[Tensor, keras.StatelessScope]:
        """Features of one slice, and the scope that caught what would have been written to variables."""
        part = keras.tree.map_structure(lambda t: _rows(t, start, size), self.x)
        known = [*zip(self.weights, weights, strict=True), *((v, state[id(v)]) for v in self.state)]
        with keras.StatelessScope(known, collect_losses=True) as scope:
            features = self.encoder(part, training=self.training)
        _check(scope, len(known))
        return features, scope

    def _probe(self) -> Tensor:
        """Finds out what state a slice changes, and returns zeros (B, F) for the features of all of them."""

        @tf.function(autograph=False)
        def slice_of_zeros() -> Tensor:
            weights = [tf.convert_to_tensor(variable.value) for variable in self.weights]
            features, scope = self._run(0, self.rows, weights, self.at_start)
            changed = [v for v in self.state if scope.get_current_value(v) is not self.at_start[id(v)]]
            self.counters = [v for v in changed if "float" not in v.dtype]
            self.averages = [v for v in changed if "float" in v.dtype]
            return features

        features = slice_of_zeros.get_concrete_function().structured_outputs
        return tf.zeros((self.count, features.shape[-1]), features.dtype)

    def _start_of(self, variables: list[keras.Variable]) -> list[Tensor]:
        return [self.at_start[id(variable)] for variable in variables]

    def _each(self, step: Callable[[Size, Size, Carry], Carry], carry: Carry) -> Carry:
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


_NO_ROWS = (
    "`encoder_batch_size` cuts inputs into slices, so that each needs a row for each sample. Received: an input that "
    "lists the parts of the samples. Leave out encoder_batch_size, and use smaller batches."
)


def _at_least(rows: int, x: Tensor) -> Tensor:
    """x, with zeros to fill a slice where its rows are not known: XLA compiles slices even where none runs."""
    if x.shape[0] is not None:
        return x
    missing = tf.maximum(rows - tf.shape(x)[0], 0)
    return tf.pad(x, [[0, missing], *[[0, 0]] * (len(x.shape) - 1)])


def _rows(x: Tensor, start: Size, size: Size) -> Tensor:
    """`x[start : start + size]`, of a size that XLA sees to be fixed."""
    sizes = tf.concat([[size], tf.shape(x)[1:]], 0)
    part = tf.slice(x, [start, *[0] * (len(x.shape) - 1)], sizes)
    return tf.ensure_shape(part, [size if isinstance(size, int) else None, *x.shape[1:]])


def _check(scope: keras.StatelessScope, known: int) -> None:
    if scope.losses:
        raise ValueError(
            "`encoder_batch_size` needs an encoder that adds no losses. Received: an encoder that calls "
            "add_loss, or has a layer with an activity_regularizer. Leave either out; weight regularizers are fine."
        )
    if len(scope.state_mapping) > known:
        raise ValueError(
            "`encoder_batch_size` needs an encoder whose state is in its own variables, so that it can be "
            "replayed. Received: an encoder that draws from a random generator outside of its attributes. "
            "Set `self.generator = keras.random.SeedGenerator(seed)` in that layer and pass it on as `seed`."
        )
