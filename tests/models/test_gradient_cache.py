"""Gradient caching: the whole batch's gradient, replayed randomness, the memory of a slice."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import assert_gradients_equal
from helpers.models import contrastive_model
from keras_tfcl.models.gradient_cache import encode_in_slices

RNG = np.random.default_rng(0)
VIEWS = tuple(RNG.normal(size=(22, 6)).astype("float32") for _ in range(2))
LOSSES = {
    "infonce": keras_tfcl.InfoNCE(0.1),
    "arctanh": keras_tfcl.ArctanhInfoNCE(),
    "hard": keras_tfcl.HardNegativeInfoNCE(0.3, top_k=3),
    "reweighted": keras_tfcl.ContrastiveLoss(0.2, negatives=keras_tfcl.ReweightedNegatives(1.0, 0.1)),
}


def mlp(*middle):
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((6,)), dense(12, "tanh"), *middle, dense(8, "tanh"), dense(5)])


def build(rows, encoder=None, loss="infonce", **options):
    made = {"loss": LOSSES.get(loss, loss), "compile_options": options, "encoder_batch_size": rows}
    return contrastive_model(encoder or mlp, projector=(8, 4), **made)


def gradients(model, loss):
    with tf.GradientTape() as tape:
        value = loss(tf.range(22), model(VIEWS, training=True))
    return value, tape.gradient(value, model.trainable_variables)


def slice_by_slice(encoder, x, rows):
    """What the docstring promises, written down: slices in a row, all of them in memory."""
    return tf.concat([encoder(x[i : i + rows], training=True) for i in range(0, len(x), rows)], 0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_whole_batch(name):
    """44 rows in slices of 8: the last one holds 4."""
    expected, slopes = gradients(build(None), LOSSES[name])
    assert max(float(tf.reduce_max(tf.abs(s))) for s in slopes) > 1e-3
    found, cached = gradients(build(8), LOSSES[name])
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert_gradients_equal(cached, slopes)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fit_is_that_of_the_whole_batch(jit):
    history = [
        model.fit(VIEWS, batch_size=11, epochs=3, verbose=0, shuffle=False).history["loss"]
        for model in (build(8, jit_compile=jit), build(None, run_eagerly=True))
    ]
    np.testing.assert_allclose(*history, rtol=1e-5)
    assert history[0][-1] < history[0][0]


def slopes_of(function, encoder, x):
    """Features of a function (encoder, x, rows = 10), and the gradient of some function of them."""
    with tf.GradientTape() as tape:
        features = function(encoder, x, 10)
        value = tf.reduce_sum(tf.sin(3.0 * features))
    return features, tape.gradient(value, encoder.trainable_variables)


def cached(encoder, x, rows):
    return encode_in_slices(encoder, x, rows, training=True)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_batch_size_that_is_not_known(jit):
    """Traced once for any number of rows: several slices and a rest, no rest, less than a slice."""
    encoder = mlp()
    run = tf.function(
        lambda x: slopes_of(cached, encoder, x), input_signature=[tf.TensorSpec((None, 6))], jit_compile=jit
    )
    for count in (22, 20, 7):
        features, slopes = run(VIEWS[0][:count])
        expected, expected_slopes = slopes_of(lambda encoder, x, rows: encoder(x), encoder, VIEWS[0][:count])
        assert_gradients_equal([features, *slopes], [expected, *expected_slopes])


@pytest.mark.parametrize(
    "options", [None, {"jit_compile": False}, pytest.param({"jit_compile": True}, marks=pytest.mark.slow)], ids=str
)
def test_dropout_is_replayed(options):
    """Features, gradient and the seeds left behind equal those of the slices one after the other."""
    encoder = mlp(keras.layers.Dropout(0.4, seed=3), keras.layers.GaussianNoise(0.1, seed=4))
    x = tf.constant(VIEWS[0])
    seeds = [v for v in encoder.non_trainable_variables if v.name == "seed_generator_state"]
    start = [np.array(v) for v in seeds]
    run = slopes_of if options is None else tf.function(slopes_of, **options)
    features, expected = run(slice_by_slice, encoder, x)
    after = [np.array(v) for v in seeds]
    assert len(seeds) == 2 and all((a != s).any() for a, s in zip(after, start, strict=True))
    for seed, value in zip(seeds, start, strict=True):
        seed.assign(value)
    again, found = run(cached, encoder, x)
    assert_gradients_equal([again, *found], [features, *expected])
    for seed, value in zip(seeds, after, strict=True):
        np.testing.assert_array_equal(seed, value)
    assert not np.allclose(run(cached, encoder, x)[0], again)  # and the next call draws anew


def test_batch_normalisation_is_of_the_slice_and_updated_once():
    """moving = 0.9 start + 0.1 mean over the slices of their statistics, weighted by rows; frozen state stays."""
    norm, frozen = keras.layers.BatchNormalization(momentum=0.9), keras.layers.BatchNormalization()
    frozen.trainable = False
    encoder = mlp(norm, frozen)
    frozen.moving_mean.assign(RNG.normal(size=12))
    x = tf.constant(np.concatenate(VIEWS))
    before = np.array(frozen.moving_mean)
    dense = np.array(encoder.layers[0](x))
    slices = [dense[0:16], dense[16:32], dense[32:44]]
    features = encode_in_slices(encoder, x, 16, training=True)
    mean = sum(len(s) / 44 * s.mean(0) for s in slices)
    variance = sum(len(s) / 44 * s.var(0) for s in slices)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, 0.9 + 0.1 * variance, rtol=1e-4)
    np.testing.assert_array_equal(frozen.moving_mean, before)
    np.testing.assert_allclose(features, slice_by_slice(encoder, x, 16), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"momentum": 0.9, "queue_size": 88}, {"two": True}], ids=["momentum", "two"])
def test_beside_momentum_and_two_encoders(options):
    """Key encoders run in slices, too, and so does each encoder of a pair."""
    losses = []
    for rows in (None, 5):
        encoder = (mlp(), mlp()) if "two" in options else mlp()
        memory = {k: v for k, v in options.items() if k != "two"}
        model = keras_tfcl.ContrastiveModel(encoder, encoder_batch_size=rows, seed=0, **memory)
        model.compile(keras.optimizers.SGD(0.1), loss=LOSSES["infonce"], run_eagerly=True)
        losses.append(model.fit(VIEWS, batch_size=22, epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][1] != losses[0][0]


def test_structured_inputs_embeddings_and_frozen_layers():
    """A dictionary of inputs; a sparse gradient; a layer that is not trained."""
    tokens, weight = keras.Input((3,), dtype="int32", name="tokens"), keras.Input((1,), name="weight")
    embedding, frozen = keras.layers.Embedding(10, 4), keras.layers.Dense(4)
    frozen.trainable = False
    y = frozen(keras.layers.Flatten()(embedding(tokens)))
    encoder = keras.Model({"tokens": tokens, "weight": weight}, keras.layers.Multiply()([y, weight]))
    x = {"tokens": RNG.integers(0, 10, (7, 3)), "weight": RNG.normal(size=(7, 1)).astype("float32")}
    slopes = []
    for function in (lambda: encoder(x), lambda: encode_in_slices(encoder, x, 3)):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(function() ** 2)
        slopes.append([tf.convert_to_tensor(g) for g in tape.gradient(value, encoder.trainable_variables)])
    assert len(slopes[0]) == 1 and float(tf.reduce_max(tf.abs(slopes[0][0]))) > 0
    assert_gradients_equal(slopes[1], slopes[0])


def test_inputs_that_list_parts_are_refused():
    x = {"graph": tf.zeros((6, 2)), "nodes": tf.zeros((20, 2))}
    inputs = {name: keras.Input((2,), name=name) for name in x}
    encoder = keras.Model(inputs, keras.layers.Dense(3)(inputs["graph"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="an input that lists the parts of the samples"):
        encode_in_slices(encoder, x, 4)


def test_half_precision_adds_up_in_float32():
    """The sum over slices is not rounded to bfloat16: 22 slices agree with one to the rounding of one."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(2)
        _, whole = gradients(build(None), LOSSES["infonce"])
        _, slopes = gradients(model, LOSSES["infonce"])
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(s.dtype == "float32" for s in slopes)
    assert_gradients_equal(slopes, whole, tolerance=0.03)


@keras.saving.register_keras_serializable(package="tests")
class Untracked(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.Dense(4, activity_regularizer="l2"), "encoder that adds no losses"),
        (Untracked(), "draws from a random generator outside of its attributes"),
    ],
    ids=["add_loss", "generator"],
)
def test_what_belongs_to_no_slice_is_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        encode_in_slices(mlp(layer), tf.constant(VIEWS[0]), 8, training=True)


def test_argument(tmp_path):
    with pytest.raises(ValueError, match=r"`encoder_batch_size` must be an integer of at least 1.*=0"):
        build(0)
    model = build(8)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").encoder_batch_size == 8


MEMORY = """
import ctypes, json, sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
import keras_tfcl

def peak():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

instances, rows, jit = int(sys.argv[1]), int(sys.argv[2]) or None, sys.argv[3] == "jit"
keras.utils.set_random_seed(0)
layers = keras.layers  # wide maps of few operations: 48 x 48 x 16 floats, 144 KiB an image and layer
encoder = keras.Sequential([keras.Input((48, 48, 1)), *[layers.Dense(16, "relu") for _ in range(3)],
                            layers.GlobalAveragePooling2D()])
model = keras_tfcl.ContrastiveModel(encoder, projector=keras_tfcl.ProjectionHead((32, 16)), encoder_batch_size=rows)
model.compile("sgd", loss=keras_tfcl.InfoNCE(0.1), jit_compile=jit)
views = tf.random.normal((2, instances, 48, 48, 1))
small = tf.data.Dataset.from_tensors(((views[0, :64], views[1, :64]),))
model.fit(small, verbose=0)  # libraries and compiler loaded before memory is measured
ctypes.CDLL("libc.so.6").malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
loss = model.fit(tf.data.Dataset.from_tensors(((views[0], views[1]),)), verbose=0).history["loss"]
print(json.dumps({"MiB": peak() - before, "loss": loss[0]}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("jit", ["jit", "graph"])
def test_memory_is_that_of_a_slice(jit):
    """8,192 instances (16,384 views, 144 MiB, and 2.3 GiB a layer) train in slices of 128 rows with less than the
    activations of 2,048 instances at a time need."""

    def measure(instances, rows):
        command = [sys.executable, "-c", MEMORY, str(instances), str(rows), jit]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    found = measure(8192, 128)
    assert np.isfinite(found["loss"])
    # What may grow with the batch is the input: data, both views in one array, XLA's copy; the rest is the compiler's.
    assert found["MiB"] < 3.5 * 144 + 400
    if jit == "graph":
        assert measure(2048, 0)["MiB"] > 3 * 576  # three layers, of a quarter of the batch
