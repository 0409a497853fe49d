"""What the tiles' products are multiplied in, by their StableHLO; and their errors against float64."""

import re

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.ops.pairwise.products import product_of

PAIRS, DIMENSION = 24, 20
LOSSES = {
    "infonce": lambda **k: keras_tfcl.InfoNCE(0.2, **k),
    "hard": lambda **k: keras_tfcl.HardNegativeInfoNCE(0.2, top_k=5, **k),
    "sigmoid": lambda **k: keras_tfcl.SigmoidContrastiveLoss(learnable=False, cross_view_only=True, **k),
    "simple": lambda **k: keras_tfcl.SimpleContrastiveLoss(**k),
}


def views(dtype="float32"):
    z = np.random.default_rng(0).normal(size=(PAIRS, 2, DIMENSION))
    z[:, 1] += z[:, 0]
    return tf.cast(z, dtype)


def value_and_gradient(loss, z):
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(tf.range(PAIRS), z)
    return value, tape.gradient(value, z)


def dots(loss, dtype):
    """The products of tiles in the lowered program."""
    program = tf.function(lambda z: value_and_gradient(loss, z), jit_compile=True, autograph=False)
    spec = tf.TensorSpec([PAIRS, 2, DIMENSION], dtype)
    text = program.experimental_get_compiler_ir(spec)(stage="stablehlo", platform_name="CPU")
    return [line for line in text.splitlines() if "stablehlo.dot" in line]


@pytest.mark.parametrize("name", ["infonce", "hard", "simple"])
def test_highest_is_in_every_product(name):
    lines = dots(LOSSES[name](block_size=16, precision="highest"), "float32")
    tiles = [line for line in lines if "HIGHEST, HIGHEST" in line and "tensor<16x16xf32>" in line]
    assert len(tiles) >= 3
    plain = dots(LOSSES[name](block_size=16), "float32")
    assert len(plain) >= 3
    assert not any("HIGHEST" in line for line in plain)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_input_multiplies_in_half_precision_and_sums_in_float32(dtype):
    short = {"bfloat16": "bf16", "float16": "f16"}[dtype]
    lines = dots(LOSSES["infonce"](block_size=16, precision="input"), dtype)
    kinds = {re.search(r": \((.*)\) -> (tensor<[^>]*>)", line).groups() for line in lines}
    assert len(kinds) >= 2
    for operands, result in kinds:
        assert operands.count(f"x{short}>") == 2
        assert result.endswith("xf32>")
    plain = dots(LOSSES["infonce"](block_size=16), dtype)
    assert plain
    assert not any(short in line for line in plain)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", list(LOSSES))
def test_highest_equals_the_dense_form(name, jit):
    dense = value_and_gradient(LOSSES[name](block_size="dense"), views("float64"))
    loss = LOSSES[name](block_size=16, precision="highest")
    step = tf.function(lambda z: value_and_gradient(loss, z), jit_compile=jit, autograph=False)
    for expected, received in zip(dense, step(views()), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


# Unit vectors are rounded to 8 and 11 bits; the cosines and the gradients follow.
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 2e-3)])
@pytest.mark.parametrize("name", ["infonce", "sigmoid", "simple"])
def test_input_is_within_the_rounding_of_its_dtype(name, dtype, tolerance):
    z = views(dtype)
    expected = value_and_gradient(LOSSES[name](block_size="dense"), tf.cast(z, "float64"))
    value, gradient = value_and_gradient(LOSSES[name](block_size=16, precision="input"), z)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(value, expected[0], rtol=tolerance)
    error = np.linalg.norm(tf.cast(gradient, "float64") - expected[1]) / np.linalg.norm(expected[1])
    assert error < tolerance
    assert error > 0


def test_float16_keeps_gradients_that_are_smaller_than_its_numbers():
    a = tf.constant(np.random.default_rng(0).normal(size=(8, 8)) * 1e-9, tf.float32)
    b = tf.constant(np.random.default_rng(1).normal(size=(8, 4)), tf.float32)
    received = product_of("input", tf.float16)(a, b)
    assert np.linalg.norm(received - a @ b) < 2e-3 * np.linalg.norm(a @ b)
    assert np.all(product_of("input", tf.float16)(0.0 * a, b) == 0)


def test_input_changes_nothing_for_float32():
    z = views()
    plain, same = (value_and_gradient(LOSSES["infonce"](block_size=16, **k), z) for k in ({}, {"precision": "input"}))
    for a, b in zip(plain, same, strict=True):
        np.testing.assert_array_equal(a, b)


def test_is_saved_and_checked():
    loss = keras_tfcl.InfoNCE(precision="highest")
    assert keras_tfcl.InfoNCE.from_config(loss.get_config()).precision == "highest"
    with pytest.raises(ValueError, match=r"`precision` must be None .* Received: precision='high'"):
        keras_tfcl.InfoNCE(precision="high")
    with pytest.raises(ValueError, match="`precision` must be"):
        keras_tfcl.ops.contrastive_loss(np.eye(3, dtype="float32"), anchor_labels=[0, 0, 1], precision=True)
