import numpy as np
import tensorflow as tf


def value_and_gradient(loss, x, labels=None, sample_weight=None, *, jit=None):
    """The value of a loss and its gradient with respect to the embeddings, as NumPy arrays.

    Args:
        loss: called as `loss(labels, x, sample_weight)`. If it returns several values, the gradient
            belongs to their sum.
        x: embeddings, a tensor or an array of any float dtype. The gradient must have the same dtype.
        labels: default to the numbers of the rows.
        sample_weight: as the loss takes it.
        jit: None runs eagerly, False as a graph, True compiled by XLA.

    Returns:
        The value in its own dtype, and the gradient in float64.
    """
    labels = np.arange(len(x)) if labels is None else labels
    return value_and_derivative(lambda z: loss(labels, z, sample_weight), x, jit=jit)


def value_and_derivative(function, x, *, jit=None):
    """The value of a function of one tensor and the gradient of its sum, as `value_and_gradient` gives them."""

    def compute(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return value, tape.gradient(value, x)

    x = tf.convert_to_tensor(x)
    value, gradient = (compute if jit is None else tf.function(compute, jit_compile=jit))(x)
    assert gradient.dtype == x.dtype
    return value.numpy(), tf.cast(gradient, "float64").numpy()


def assert_gradients_equal(found, expected, tolerance=1e-5):
    """Compares two lists of arrays to a tolerance relative to the largest expected entry of all.

    Entry by entry would not do: before batch normalisation some gradients are 0 but for rounding.
    """
    scale = max(float(np.abs(x).max()) for x in expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, rtol=0, atol=tolerance)
