"""Momentum encoder and key queue against a training loop of plain TensorFlow in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.batches import unit
from helpers.models import contrastive_model, dense_encoder, step_losses

RNG = np.random.default_rng(0)
ROWS, BATCH = 24, 4
VIEWS = tuple(RNG.normal(size=(ROWS, 5)).astype("float32") for _ in range(2))
LABELS = np.arange(ROWS) % 3
KERNEL = RNG.normal(size=(5, 3)).astype("float32")
MOMENTUM, TEMPERATURE, QUEUE = 0.7, 0.5, 16


def build(queue_size=QUEUE, encoder=None, **options):
    return contrastive_model(
        encoder or dense_encoder(5, kernel=KERNEL),
        optimizer=keras.optimizers.SGD(0.5),
        loss=keras_tfcl.InfoNCE(TEMPERATURE),
        compile_options={"run_eagerly": True},
        momentum=MOMENTUM,
        queue_size=queue_size,
        **options,
    )


def fit(model, y=None, **options):
    """The losses of the steps of one epoch."""
    return step_losses(model, VIEWS, y, batch_size=BATCH, **options)


def moco(steps, queue_size, labels=None, cross_view_only=False):
    """Losses of the steps, final weights of both encoders, the queue from old to new."""
    query, key = tf.Variable(KERNEL, dtype="float64"), tf.constant(KERNEL, "float64")
    queue, queue_names, losses = [], [], []
    for step in range(steps):
        rows = np.arange(step * BATCH, (step + 1) * BATCH) % ROWS
        views = [tf.constant(view[rows], "float64") for view in VIEWS]
        names = [("row", r) for r in range(BATCH)] if labels is None else [("label", labels[r]) for r in rows]
        keys = [tf.math.l2_normalize(view @ key, axis=1) for view in views]
        with tf.GradientTape() as tape:
            queries = [tf.math.l2_normalize(view @ query, axis=1) for view in views]
            anchors = []
            for i in range(BATCH):
                for v in range(2):
                    others = [(keys[w][j], names[j], w) for j in range(BATCH) for w in range(2) if (j, w) != (i, v)]
                    others += [(old, name, n % 2) for n, (old, name) in enumerate(zip(queue, queue_names, strict=True))]
                    others = [other for other in others if not cross_view_only or other[2] != v]
                    logits = tf.stack([tf.tensordot(queries[v][i], k, 1) / TEMPERATURE for k, _, _ in others])
                    positive = np.array([name == names[i] for _, name, _ in others])
                    anchors.append(tf.reduce_logsumexp(logits) - tf.reduce_mean(logits[positive]))
            loss = tf.add_n(anchors) / len(anchors)
        query.assign_sub(0.5 * tape.gradient(loss, query))
        key = MOMENTUM * key + (1 - MOMENTUM) * query
        losses.append(float(loss))
        for i in range(BATCH):
            for v in range(2):
                queue.append(keys[v][i])
                queue_names.append("nobody" if labels is None else names[i])
        queue, queue_names = queue[len(queue) - queue_size :], queue_names[len(queue_names) - queue_size :]
    return losses, query.numpy(), key.numpy(), np.array(queue)


@pytest.mark.parametrize(
    ("options", "labels", "cross_view_only"),
    [
        pytest.param({"jit_compile": True}, None, False, id="self-supervised"),
        pytest.param({"run_eagerly": True}, LABELS, False, id="labels"),
        pytest.param({"run_eagerly": True}, None, True, id="cross_view_only", marks=pytest.mark.slow),
    ],
)
def test_training_is_moco(options, labels, cross_view_only):
    """Six steps: the queue is full after two, and turned over twice."""
    model = build(supervised=labels is not None)
    loss = keras_tfcl.InfoNCE(TEMPERATURE, cross_view_only=cross_view_only)
    model.compile(keras.optimizers.SGD(0.5), loss=loss, **options)
    losses = fit(model, labels)
    expected, query, key, queue = moco(6, QUEUE, labels, cross_view_only)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(model.encoder.layers[-1].kernel, query, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.memory.key_encoder.weights[0], key, rtol=1e-4, atol=1e-6)
    start = int(model.memory.queue.stored.numpy()) % QUEUE
    np.testing.assert_allclose(np.roll(model.memory.queue.keys, -start, axis=0), queue, rtol=1e-4, atol=1e-6)


def test_momentum_without_queue():
    np.testing.assert_allclose(fit(build(queue_size=0)), moco(6, 0)[0], rtol=1e-4)


def test_save_load_and_resume(tmp_path):
    """Key encoder, queue and its labels are saved: a loaded run has the losses of one that never stopped."""
    model = build(supervised=True)
    fit(model, LABELS)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    assert (loaded.momentum, loaded.queue_size, loaded.queue) == (MOMENTUM, QUEUE, "keys")
    np.testing.assert_array_equal(loaded.memory.queue.labels, model.memory.queue.labels)
    np.testing.assert_allclose(fit(loaded, LABELS), fit(model, LABELS), rtol=1e-5)


def test_evaluation_compares_with_keys_and_leaves_the_memory_alone():
    model = build()
    fit(model)
    before = [weight.numpy() for weight in model.non_trainable_weights]
    result = model.evaluate(tuple(view[:BATCH] for view in VIEWS), batch_size=BATCH, verbose=0)
    for weight, value in zip(model.non_trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    stored, kernel = model.memory.queue.keys.numpy(), model.weights[0].numpy()
    key_kernel = model.memory.key_encoder.weights[0].numpy()

    queries, keys = (np.stack([unit(v[:BATCH] @ w) for v in VIEWS], 1).reshape(-1, 3) for w in (kernel, key_kernel))
    losses = []
    for n, query in enumerate(queries):
        logits = np.delete(np.concatenate([keys, stored]) @ query, n) / TEMPERATURE
        positive = keys[n ^ 1] @ query / TEMPERATURE
        losses.append(np.log(np.exp(logits).sum()) - positive)
    assert result == pytest.approx(np.mean(losses), rel=1e-4)


def test_batch_normalisation_of_the_key_encoder():
    """Keys are normalised by their batch, and moving statistics are the key encoder's own, not averaged ones."""
    dense = keras.layers.Dense(3, use_bias=False, kernel_initializer=keras.initializers.Constant(KERNEL))
    encoder = keras.Sequential([keras.Input((5,)), dense, keras.layers.BatchNormalization(momentum=0.9)])
    model = keras_tfcl.ContrastiveModel(encoder, momentum=MOMENTUM, queue_size=QUEUE, seed=0)
    model.compile(keras.optimizers.SGD(0.0), loss="infonce", run_eagerly=True)
    model.fit(tuple(view[:BATCH] for view in VIEWS), batch_size=BATCH, shuffle=False, verbose=0)
    seen = np.concatenate([view[:BATCH] for view in VIEWS]) @ KERNEL
    statistics = {weight.name: weight.numpy() for weight in model.memory.key_encoder.weights}
    np.testing.assert_allclose(statistics["moving_mean"], 0.1 * seen.mean(0), rtol=1e-4)
    normalised = (seen - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-3)
    expected = normalised / np.linalg.norm(normalised, axis=1, keepdims=True)
    stored = model.memory.queue.keys.numpy()[: 2 * BATCH].reshape(BATCH, 2, 3)
    np.testing.assert_allclose(stored, expected.reshape(2, BATCH, 3).transpose(1, 0, 2), rtol=1e-3, atol=1e-5)


def test_only_the_encoder_is_trained():
    model = build(projector=keras_tfcl.ProjectionHead((4, 3)))
    trained = {id(weight) for weight in (*model.encoder.trainable_weights, *model.projector.trainable_weights)}
    assert {id(weight) for weight in model.trainable_weights} == trained
    model.trainable = False
    model.trainable = True
    assert {id(weight) for weight in model.trainable_weights} == trained


def test_what_a_copied_layer_has_learned_is_copied():
    """Normalization keeps what it computed beside its weights."""
    normalization = keras.layers.Normalization()
    normalization.adapt(VIEWS[0] * 3 + 1)
    model = build(encoder=keras.Sequential([keras.Input((5,)), normalization, keras.layers.Dense(3)]))
    keys = model.memory.key_encoder((VIEWS[0],))[:, 0]
    np.testing.assert_allclose(keys, model.predict(VIEWS[0], verbose=0), rtol=1e-5, atol=1e-6)


def test_batches_that_cannot_be_checked_beforehand():
    """A dataset with a smaller last batch: the queue stays first in, first out."""
    model = build(queue_size=12)
    dataset = tf.data.Dataset.from_tensor_slices((VIEWS,)).batch(5)
    model.fit(dataset.map(lambda views: (views,)), verbose=0)
    assert int(model.memory.queue.stored) == 2 * ROWS
    newest = [n % 12 for n in range(2 * ROWS - 8, 2 * ROWS)]  # the last batch has 4 rows
    stored = model.memory.queue.keys.numpy()[newest].reshape(4, 2, 3)
    assert np.isfinite(stored).all()
    # The key encoder moved once since; with a learning rate of 0.5 that is not far.
    keys = model.memory.key_encoder(tuple(view[-4:] for view in VIEWS)).numpy()
    assert (stored * keys).sum(-1).min() > 0.9
