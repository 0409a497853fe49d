"""`Alignment` and `ContrastiveAccuracy` compare what a loss compares, against NumPy pair by pair."""

import keras
import numpy as np
import pytest

import keras_tfcl
from helpers.relations import IGNORED, UNLABELLED, masks
from keras_tfcl.evaluation import pairs

RULES = {
    "ignored": {"ignore_class": IGNORED},
    "across": {"cross_view_only": True},
    "unlabelled_across": {"unlabelled_class": UNLABELLED, "ignore_class": IGNORED, "cross_view_only": True},
    "accidental": {"same_label": "ignore", "ignore_class": IGNORED},
    "roles": {"roles": ("anchor", "positive", "negative")},
    "both_directions": {"roles": ("positive", "anchor", "negative"), "symmetric": True, "unlabelled_class": UNLABELLED},
    "multi_hot": {},
}


def expected(labels, z, weights, rule, k, alpha):
    positive, negative = masks(labels, rule, z.shape[1])
    units = z.reshape(-1, z.shape[2]) / np.linalg.norm(z.reshape(-1, z.shape[2]), axis=1, keepdims=True)
    cosines, w = units @ units.T, weights.repeat(z.shape[1])
    hits, anchors, distances, count = 0.0, 0.0, 0.0, 0.0
    for i in np.flatnonzero(positive.any(1)):
        hits += w[i] * ((cosines[i][negative[i]] >= cosines[i][positive[i]].max()).sum() < k)
        anchors += w[i]
        for j in np.flatnonzero(positive[i]):
            distances += w[i] * w[j] * np.linalg.norm(units[i] - units[j]) ** alpha
            count += w[i] * w[j]
    return hits / anchors, distances / count


def data(seed, name):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(12, 3, 4)) * rng.uniform(0.5, 2, (12, 3, 1))
    if name == "multi_hot":
        return rng.integers(0, 2, (12, 5)) * (rng.uniform(size=(12, 1)) < 0.8), z
    return rng.choice([IGNORED, UNLABELLED, 0, 1, 2], 12), z


@pytest.mark.parametrize("strip", [50, 2**20])
@pytest.mark.parametrize("name", RULES)
def test_they_equal_numpy(name, strip, monkeypatch):
    monkeypatch.setattr(pairs, "STRIP", strip)
    (labels, z), weights = data(0, name), np.random.default_rng(1).uniform(0, 2, 12)
    rule = keras_tfcl.InfoNCE(**RULES[name]).rule
    accuracy, alignment = keras_tfcl.ContrastiveAccuracy(2, rule=rule), keras_tfcl.Alignment(1.0, rule=rule)
    for metric, value in zip((accuracy, alignment), expected(labels, z, weights, RULES[name], 2, 1.0), strict=True):
        metric.update_state(labels, z, weights)
        np.testing.assert_allclose(metric.result(), value, rtol=1e-6)
        loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
        loaded.update_state(labels, z, weights)
        np.testing.assert_allclose(loaded.result(), value, rtol=1e-6)


def test_a_model_gives_them_the_rule_of_its_loss():
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model = keras_tfcl.ContrastiveModel(encoder, supervised=True, views=3)
    rule = RULES["roles"] | {"ignore_class": IGNORED}
    kept = keras_tfcl.ContrastiveAccuracy(name="all", rule=keras_tfcl.InfoNCE().rule)
    labels, x = data(2, "roles")
    views, z = tuple(x.transpose(1, 0, 2)), encoder.predict(x.reshape(-1, 4), verbose=0).reshape(12, 3, 4)
    for chosen in (rule, {}):
        metrics = [keras_tfcl.ContrastiveAccuracy(), keras_tfcl.Alignment(), kept]
        model.compile("adam", keras_tfcl.InfoNCE(**chosen), metrics=metrics, run_eagerly=True)
        logs = model.evaluate(views, labels, batch_size=12, verbose=0, return_dict=True)
        accuracy, alignment = expected(labels, z, np.ones(12), chosen, 1, 2.0)
        np.testing.assert_allclose(logs["contrastive_accuracy"], accuracy, rtol=1e-5)
        np.testing.assert_allclose(logs["alignment"], alignment, rtol=1e-5)
        np.testing.assert_allclose(logs["all"], expected(labels, z, np.ones(12), {}, 1, 2.0)[0], rtol=1e-5)


def test_metrics_of_samples_take_multi_hot_labels():
    labels, z = data(3, "multi_hot")
    for metric in (keras_tfcl.Uniformity(), keras_tfcl.Tolerance()):
        metric.update_state(labels, z)
        assert np.isfinite(metric.result())
