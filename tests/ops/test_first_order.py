"""The kernel's own gradient: no tape looks into it, and it has no gradient itself."""

import weakref

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl

Z = tf.constant(np.random.default_rng(0).normal(size=(9, 2, 5)))
LABELS = np.arange(9) // 2


class Squares(keras_tfcl.losses.EmbeddingLoss):
    """Sees whole rows."""

    def losses_of_pairs(self, similarity, pairs):
        terms = tf.where(pairs.positive, (1 - similarity) ** 2, 0) + tf.where(pairs.negative, similarity**2, 0)
        return tf.reduce_sum(terms, 1)


MAKE = {
    "in tiles": lambda **k: keras_tfcl.InfoNCE(0.3, dtype="float64", **k),
    "without TF32": lambda **k: keras_tfcl.InfoNCE(0.3, dtype="float64", precision="highest", **k),
    "by rows": lambda **k: Squares(dtype="float64", **k),
}
# Eagerly, as a graph, and compiled.
RUNS = {
    "eager": lambda f: f,
    "graph": lambda f: tf.function(f, autograph=False),
    "XLA": lambda f: tf.function(f, autograph=False, jit_compile=True),
}


def gradient(loss, z):
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(LABELS, z)
    return tape.gradient(value, z)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", MAKE)
def test_a_second_derivative_is_refused(name, run):
    """`precision=` once gave a wrong one."""

    def second(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            penalty = tf.reduce_sum(gradient(loss, z) ** 2)
        return tape.gradient(penalty, z)

    loss = MAKE[name](block_size="dense")
    assert np.abs(RUNS["eager"](second)(Z)).max() > 0
    loss = MAKE[name](block_size=7)
    with pytest.raises(NotImplementedError, match=r"second derivative.*block_size='dense'"):
        RUNS[run](second)(Z)


def test_forward_mode_is_refused():
    accumulator = tf.autodiff.ForwardAccumulator(Z, tf.ones_like(Z))
    with pytest.raises(NotImplementedError, match="forward-mode"), accumulator:
        MAKE["in tiles"](block_size=7)(LABELS, Z)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", ["in tiles", "by rows"])
def test_persistent_tapes_and_tapes_within_others(name, run):
    """Where TensorFlow might need a gradient of the loops, which XLA cannot compile."""
    loss = MAKE[name](block_size=7)

    def twice(z):
        with tf.GradientTape() as outer:
            outer.watch(z)
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(z)
                value = loss(LABELS, z)
                square = value * value
            gradients = tape.gradient(value, z), tape.gradient(square, z) / (2 * value)
        return [*gradients, outer.gradient(value, z)]

    expected = gradient(MAKE[name](block_size="dense"), Z)
    for received in RUNS[run](twice)(Z):
        np.testing.assert_allclose(received, expected, rtol=1e-9, atol=1e-12)


def test_an_eager_tape_holds_no_tile():
    made = []

    class Halves(keras_tfcl.Scaling):
        def __call__(self, similarity):
            logits = similarity / 2
            if tf.executing_eagerly() and logits.shape == (3, 3):
                made.append(weakref.ref(logits))
            return logits

    loss = keras_tfcl.ContrastiveLoss(Halves(), block_size=3)
    with tf.GradientTape() as tape:
        tape.watch(Z)
        value = loss(LABELS, Z)
    assert len(made) >= 6 * 7 / 2
    assert sum(reference() is not None for reference in made) <= 1
    assert np.abs(tape.gradient(value, Z)).max() > 0
