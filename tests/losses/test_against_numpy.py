"""Value and gradient of every loss against double loops in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import value_and_gradient
from keras_tfcl.testing import reference

B = 6
LABELS = {
    "rows": np.arange(B),
    "two_each": np.array([5, 5, -3, -3, 9, 9]),
    "some_alone": np.array([1, 1, 1, 2, 3, 3]),
    "one_class": np.zeros(B, int),
}
LOSSES = {
    "infonce": (keras_tfcl.InfoNCE(0.1), {"temperature": 0.1}),
    "arctanh": (keras_tfcl.ArctanhInfoNCE(), {"arctanh_scale": 2.0}),
    "arctanh_1": (keras_tfcl.ArctanhInfoNCE(scale=1.0), {"arctanh_scale": 1.0}),
    "hard_alpha": (keras_tfcl.HardNegativeInfoNCE(0.3, alpha=0.4), {"temperature": 0.3, "alpha": 0.4}),
    "hard_top_k": (keras_tfcl.HardNegativeInfoNCE(0.3, top_k=2), {"temperature": 0.3, "top_k": 2}),
    "hard_arctanh": (keras_tfcl.HardNegativeInfoNCE(None, top_k=3), {"arctanh_scale": 2.0, "top_k": 3}),
    "decoupled": (keras_tfcl.InfoNCE(0.2, decoupled=True), {"temperature": 0.2, "decoupled": True}),
}


def embeddings(views, size, seed=0, dtype="float32"):
    shape = (B, size) if views == 1 else (B, views, size)
    return tf.cast(np.random.default_rng(seed).normal(size=shape), dtype)


def check(loss, options, labels, x, jit=None, value_tolerance=1e-5, gradient_tolerance=1e-5):
    expected = reference.contrastive_loss(labels, tf.cast(x, "float64").numpy(), **options)
    count = max(expected.valid.sum(), 1)
    value, gradient = value_and_gradient(loss, x, labels, jit=jit)
    np.testing.assert_allclose(value, expected.losses.sum() / count, rtol=value_tolerance, atol=1e-7)
    largest = np.abs(expected.gradient).max()
    difference = np.abs(gradient - expected.gradient).max()
    assert difference <= gradient_tolerance * max(largest, 1e-6), (difference, largest)


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.filterwarnings("ignore:.*no embedding of this batch has a positive")  # rows with one view
def test_views_and_labels(name, labels, views):
    check(*LOSSES[name], LABELS[labels], embeddings(views, 8))


@pytest.mark.parametrize("size", [2, 3, 64, 512])
@pytest.mark.parametrize("name", LOSSES)
def test_embedding_sizes(name, size):
    check(*LOSSES[name], LABELS["rows"], embeddings(2, size))


@pytest.mark.parametrize("temperature", [1e-3, 3e-3, 0.01, 0.07, 0.5, 1.0, 10.0])
@pytest.mark.parametrize("labels", ["rows", "some_alone"])
def test_temperatures(temperature, labels):
    check(keras_tfcl.InfoNCE(temperature), {"temperature": temperature}, LABELS[labels], embeddings(2, 16))


@pytest.mark.parametrize(("dtype", "rounding"), [("float16", 2**-11), ("bfloat16", 2**-8), ("float64", 1e-9)])
@pytest.mark.parametrize("name", LOSSES)
def test_dtypes(name, dtype, rounding):
    """The loss is as exact as in float32; the gradient is rounded once, to the dtype of the embeddings."""
    x = embeddings(2, 16, dtype=dtype)
    check(*LOSSES[name], LABELS["rows"], x, gradient_tolerance=max(rounding, 1e-5))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_compiled(name, jit):
    check(*LOSSES[name], LABELS["some_alone"], embeddings(2, 16), jit=jit)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("labels", ["rows", "two_each"])
def test_cross_view_only(views, labels):
    loss = keras_tfcl.InfoNCE(0.2, cross_view_only=True)
    check(loss, {"temperature": 0.2, "cross_view_only": True}, LABELS[labels], embeddings(views, 8))


def test_cross_view_only_is_clip():
    """With two views: the mean of both directions' cross-entropies of the similarity matrix."""
    x = embeddings(2, 8).numpy().astype("float64")
    u = x / np.linalg.norm(x, axis=-1, keepdims=True)
    logits = u[:, 0] @ u[:, 1].T / 0.1
    rows = np.diag(logits) - np.log(np.exp(logits).sum(1))
    columns = np.diag(logits) - np.log(np.exp(logits).sum(0))
    value = keras_tfcl.InfoNCE(0.1, cross_view_only=True)(np.arange(B), x)
    np.testing.assert_allclose(value, -(rows.mean() + columns.mean()) / 2, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_weighted_loss(name):
    loss, options = LOSSES[name]
    x, labels = embeddings(2, 8), LABELS["rows"]
    weights = np.linspace(0.0, 2.0, B)
    expected = reference.contrastive_loss(labels, x.numpy(), weights=np.repeat(weights, 2), **options)
    value, gradient = value_and_gradient(loss, x, labels, weights.astype("float32"))
    np.testing.assert_allclose(value, (expected.losses * weights[:, None]).mean(), rtol=1e-5)
    assert np.abs(gradient - expected.gradient).max() <= 1e-5 * np.abs(expected.gradient).max()


@pytest.mark.parametrize("name", LOSSES)
def test_lowers_to_xla_for_gpu(name):
    """Needs TensorFlow built with CUDA support, but no GPU."""
    if not tf.test.is_built_with_cuda():
        pytest.skip("this TensorFlow is built without CUDA")
    labels, x = LABELS["rows"], embeddings(2, 16)
    compiled = tf.function(lambda x: tf.gradients(LOSSES[name][0](labels, x), x), jit_compile=True)
    spec = tf.TensorSpec(x.shape, x.dtype)
    hlo = compiled.experimental_get_compiler_ir(spec)(stage="hlo", platform_name="GPU")
    assert "f64[12,12]" in hlo  # the similarity matrix of 12 views


def test_plain_encoder_learns_through_fit():
    """encoder.compile(loss=InfoNCE()); encoder.fit(x, labels), with no ContrastiveModel."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 128)
    x = (rng.normal(size=(4, 16))[labels] + rng.normal(size=(128, 16))).astype("float32")
    encoder = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8)])
    encoder.compile(keras.optimizers.Adam(0.01), loss=keras_tfcl.InfoNCE(0.5), jit_compile=True)
    history = encoder.fit(x, labels, batch_size=64, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0] - 0.2
