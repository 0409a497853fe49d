"""Roles, class labels with a meaning, and log Q, in `fit`, with queue and saved models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.batches import unit


def encoder(width=6, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(4)])


@pytest.fixture
def triples():
    rng = np.random.default_rng(0)
    anchors = rng.normal(size=(16, 6)).astype("float32")
    near = anchors + 0.5 * rng.normal(size=(2, 16, 6)).astype("float32")
    return anchors, near[0], near[1]


def test_the_first_loss_is_that_of_multiple_negatives_ranking(triples):
    model = keras_tfcl.ContrastiveModel(encoder(), views=3)
    model.compile("sgd", keras_tfcl.InfoNCE(0.2, roles=("anchor", "positive", "negative")), run_eagerly=True)
    a, p, n = (unit(np.float64(model.encoder(x))) for x in triples)
    logits = a @ np.concatenate([p, n]).T / 0.2  # (16, 32)
    expected = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    assert model.evaluate(triples, batch_size=16, verbose=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_rules_in_fit_with_and_without_a_queue(triples, momentum, tmp_path):
    labels = np.array([0, 1, -1, -2] * 4)
    rule = {"ignore_class": -2, "unlabelled_class": -1, "same_label": "ignore"}
    queue = {} if momentum is None else {"momentum": momentum, "queue_size": 48}
    model = keras_tfcl.ContrastiveModel(encoder(), views=3, supervised=True, seed=1, **queue)
    loss = keras_tfcl.InfoNCE(0.2, roles=("anchor", "positive", "negative"), symmetric=True, **rule)
    model.compile("sgd", loss, run_eagerly=True)
    model.fit(triples, labels, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    losses = [m.fit(triples, labels, batch_size=8, verbose=0).history["loss"] for m in (model, loaded)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert np.isfinite(losses[0]).all()


def test_multi_hot_labels_in_fit(triples):
    labels = np.random.default_rng(1).integers(0, 2, (16, 5)).astype("float32")
    model = keras_tfcl.ContrastiveModel(encoder(), supervised=True)
    loss = keras_tfcl.InfoNCE(0.2)
    model.compile("sgd", loss, run_eagerly=True)
    embeddings = np.stack([model.encoder(x) for x in triples[:2]], 1)
    expected = float(loss(labels, embeddings))
    assert model.evaluate(triples[:2], labels, batch_size=16, verbose=0) == pytest.approx(expected, rel=1e-5)
    model.fit(triples[:2], labels, verbose=0)


def log_q_loss(queries, items, labels, probability, temperature):
    """TensorFlow Recommenders' retrieval task: `scores - log(clip(p, 1e-6, 1))`, accidental hits removed, softmax."""
    scores = unit(queries) @ unit(items).T / temperature
    scores = scores - np.log(np.clip(probability, 1e-6, 1.0))[None]
    hits = (labels[:, None] == labels[None]) & ~np.eye(len(labels), dtype=bool)
    scores = np.where(hits, -np.inf, scores)
    return np.mean(np.log(np.exp(scores).sum(1)) - np.diag(scores))


@pytest.mark.parametrize("block", ["dense", 5])
def test_log_q_equals_the_formula_of_tensorflow_recommenders(triples, block):
    towers = encoder(seed=1), encoder(seed=2)
    labels = np.random.default_rng(2).integers(0, 9, 16)
    probability = np.random.default_rng(3).uniform(0, 0.5, 16).astype("float32")
    probability[:2] = 0, 1
    loss = keras_tfcl.InfoNCE(0.3, roles=("anchor", "positive"), same_label="ignore", block_size=block)
    model = keras_tfcl.ContrastiveModel(towers, supervised=True)
    model.compile("sgd", loss, run_eagerly=True)
    queries, items = (np.float64(tower(x)) for tower, x in zip(towers, triples, strict=False))
    expected = log_q_loss(queries, items, labels, probability, 0.3)
    y = {"labels": labels, "sampling_probability": probability}
    assert model.evaluate(triples[:2], y, batch_size=16, verbose=0) == pytest.approx(expected, rel=1e-5)
    assert abs(expected - log_q_loss(queries, items, labels, np.ones(16), 0.3)) > 0.1  # the correction matters
    model.fit(triples[:2], y, batch_size=16, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices((triples[:2], y)).batch(8)
    model.fit(dataset, verbose=0)


def test_estimated_probabilities_are_used_and_saved(triples, tmp_path):
    labels = np.random.default_rng(2).integers(0, 4, 16)
    estimate = keras_tfcl.SamplingProbability(100, 0.1)
    towers = encoder(seed=1), encoder(seed=2)
    model = keras_tfcl.ContrastiveModel(towers, supervised=True, seed=1, sampling_probability=estimate)
    model.compile("sgd", keras_tfcl.InfoNCE(0.3, roles=("anchor", "positive"), same_label="ignore"))
    model.fit(triples[:2], labels, batch_size=4, epochs=3, verbose=0)
    assert int(estimate.batches) == 12
    probability = estimate(labels).numpy()
    assert 0 < probability.min() < probability.max() <= 1
    queries, items = (np.float64(tower(x)) for tower, x in zip(towers, triples, strict=False))
    expected = log_q_loss(queries, items, labels, probability, 0.3)
    assert model.evaluate(triples[:2], labels, batch_size=16, verbose=0) == pytest.approx(expected, rel=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    losses = [m.fit(triples[:2], labels, batch_size=4, verbose=0).history["loss"] for m in (model, loaded)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize("rule", [{"ignore_class": -1}, {"unlabelled_class": 0}, {"same_label": "ignore"}])
def test_rules_of_labels_need_labels(rule):
    model = keras_tfcl.ContrastiveModel(encoder())
    with pytest.raises(ValueError, match="Pass supervised=True"):
        model.compile("sgd", keras_tfcl.InfoNCE(**rule))


@pytest.mark.parametrize(
    ("arguments", "loss", "message"),
    [
        ({"momentum": 0.9}, keras_tfcl.InfoNCE(), "Leave out momentum"),
        ({}, keras.losses.MeanSquaredError(), "keras_tfcl.losses.EmbeddingLoss"),
        ({}, keras_tfcl.SigmoidContrastiveLoss(), "softmax over candidates"),
        ({}, keras_tfcl.SimpleContrastiveLoss(), "softmax over candidates"),
        ({}, keras_tfcl.DecoupledInfoNCE(sigma=0.5), "without sigma"),
        ({}, keras_tfcl.ContrastiveLoss(0.1, keras_tfcl.ReweightedNegatives()), "negatives='all'"),
    ],
)
def test_log_q_is_refused_by_name(triples, arguments, loss, message):
    model = keras_tfcl.ContrastiveModel(encoder(), **arguments)
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=message):
        model.train_on_batch(triples[:2], {"sampling_probability": np.full(16, 0.5)})


def test_a_dictionary_of_something_else_is_refused(triples):
    model = keras_tfcl.ContrastiveModel(encoder())
    model.compile("sgd", keras_tfcl.InfoNCE())
    with pytest.raises(ValueError, match="Received: a dictionary of"):
        model.train_on_batch(triples[:2], {"label": np.arange(16), "sampling_probability": np.full(16, 0.1)})


def test_multi_hot_labels_with_a_queue_are_refused(triples):
    model = keras_tfcl.ContrastiveModel(encoder(), supervised=True, momentum=0.9, queue_size=32)
    model.compile("sgd", keras_tfcl.InfoNCE())
    with pytest.raises(ValueError, match="integer labels"):
        model.train_on_batch(triples[:2], np.eye(16))
