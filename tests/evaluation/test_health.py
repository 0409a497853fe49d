"""Health against its definition by loops, and one constructed embedding for each diagnosis."""

import math

import numpy as np
import pytest

from keras_tfcl import Arctanh, Temperature
from keras_tfcl.evaluation import diagnose, embedding_health

N, D = 40, 16


def views_of(points, noise=0.3, seed=1):
    rng = np.random.default_rng(seed)
    points = np.asarray(points, "float64")
    return np.stack([points + noise * rng.normal(size=points.shape) for _ in range(2)], axis=1)


def healthy(seed=0, count=N):
    return views_of(np.random.default_rng(seed).normal(size=(count, D)))


def by_hand(views, logit, derivative):
    unit = views / np.linalg.norm(views, axis=-1, keepdims=True)
    count = len(unit)
    positive = negative = saturated = hardest = 0.0
    for i in range(count):
        weights = [math.exp(logit(unit[i, 0] @ unit[j, 1])) for j in range(count)]
        pulls = [w * derivative(unit[i, 0] @ unit[j, 1]) for j, w in enumerate(weights) if j != i]
        positive += unit[i, 0] @ unit[i, 1] / count
        negative += sum(unit[i, 0] @ unit[j, 1] for j in range(count) if j != i) / (count * (count - 1))
        saturated += (max(weights) / sum(weights) > 0.99) / count
        hardest += max(pulls) / sum(pulls) / count
    return positive, negative, saturated, hardest


@pytest.mark.parametrize(
    ("scaling", "logit", "derivative"),
    [
        (Temperature(0.1), lambda s: s / 0.1, lambda s: 10),
        (Temperature(1.0), lambda s: s, lambda s: 1),
        (Arctanh(2.0), lambda s: math.log((1 + s) / (1 - s)), lambda s: 2 / (1 - s**2)),
    ],
)
def test_equals_loops(scaling, logit, derivative):
    views = healthy()
    health = embedding_health(views * np.linspace(0.1, 100, N)[:, None, None], scaling)
    measured = health.positive_cosine, health.negative_cosine, health.saturated, health.hardest_share
    assert measured == pytest.approx(by_hand(views, logit, derivative), rel=1e-4)
    assert (health.samples, health.dimension) == (N, D)


def test_the_rank_is_that_of_one_view_of_each_sample():
    """Views that have nothing in common span twice as many directions as there are samples."""
    views = np.random.default_rng(8).normal(size=(20, 2, 200))
    assert 15 < embedding_health(views).effective_rank <= 20


def test_without_a_scaling_there_is_no_softmax():
    health = embedding_health(healthy())
    assert math.isnan(health.saturated) and math.isnan(health.hardest_share) and math.isnan(health.near_duplicates)
    assert diagnose(health) == []


def diagnoses_of(views, scaling=None, unaltered=None):
    return [diagnosis.name for diagnosis in diagnose(embedding_health(views, scaling, unaltered))]


@pytest.mark.parametrize("scaling", [Temperature(0.1), Temperature(0.5), Arctanh(2.0)])
def test_healthy_embeddings_have_no_diagnosis(scaling):
    unaltered = np.random.default_rng(0).normal(size=(N, D))
    assert diagnoses_of(healthy(), scaling, unaltered) == []


def test_a_supervised_encoder_of_ten_classes_is_no_collapse():
    """Nine directions of 64: small, but what ten classes need."""
    centres = np.random.default_rng(2).normal(size=(10, 64))
    assert diagnoses_of(views_of(np.repeat(centres, 12, axis=0)), Temperature(0.1)) == []


def test_a_supervised_loss_may_pull_classes_together():
    views = views_of(np.repeat(np.random.default_rng(7).normal(size=(10, D)), 4, axis=0), 1e-3)
    health = embedding_health(views, Temperature(0.5), views[:, 0])
    assert [diagnosis.name for diagnosis in diagnose(health)] == ["duplicates", "augmentations too weak"]
    assert diagnose(health, supervised=True) == []


def test_collapse_to_a_point():
    assert diagnoses_of(views_of(np.ones((N, D)), 0.05), Temperature(0.1)) == ["collapse to a point"]
    assert diagnoses_of(np.ones((N, 2, D))) == ["collapse to a point"]


def test_dimensional_collapse():
    line = np.random.default_rng(3).normal(size=(N, 1)) * np.eye(D)[:1]
    assert diagnoses_of(views_of(line, 1e-6), Temperature(0.5)) == ["dimensional collapse"]


def test_temperature_too_small():
    assert diagnoses_of(healthy(), Temperature(0.01)) == ["temperature too small"]


def test_duplicates():
    unaltered = np.random.default_rng(4).normal(size=(N, D))
    unaltered[:5] = unaltered[5:10] * 3
    assert diagnoses_of(healthy(), Temperature(0.5), unaltered) == ["duplicates"]


def test_copies_are_not_seen_in_a_narrow_cone():
    """All cosines are near 1, and still no sample is another's copy."""
    unaltered = np.random.default_rng(5).normal(size=(N, D)) + 1000
    assert diagnoses_of(healthy(), Temperature(0.5), unaltered) == []


def test_augmentations_too_weak():
    views = views_of(np.random.default_rng(6).normal(size=(N, D)), 0.02)
    assert diagnoses_of(views, Temperature(0.5)) == ["augmentations too weak"]


def test_diverged():
    views = healthy()
    views[3, 1, 2] = np.inf
    health = embedding_health(views, Temperature(0.1), views[:, 0])
    assert [diagnosis.name for diagnosis in diagnose(health)] == ["diverged"]
    assert math.isnan(health.effective_rank) and not health.finite


def test_every_diagnosis_says_what_to_do():
    broken = np.full((N, 2, D), np.nan)
    for views, scaling, word in [
        (np.ones((N, 2, D)), None, "BatchNormalization"),
        (healthy(), Temperature(0.01), "larger temperature"),
        (broken, None, "learning rate"),
    ]:
        (diagnosis,) = diagnose(embedding_health(views, scaling))
        assert word in diagnosis.action
        assert str(diagnosis) == f"{diagnosis.finding} {diagnosis.action}"


@pytest.mark.parametrize("views", [np.ones((N, 2, D)), np.full((N, 2, D), np.nan), healthy()])
def test_a_wrong_range_of_values_is_the_only_diagnosis(views):
    """The augmenter turns such samples into noise: advice about the model would lead away from the cause."""
    (diagnosis,) = diagnose(embedding_health(views), range_problem="Received: values 0 to 1. Scale them to 0..255.")
    assert diagnosis.name == "pixel range" and diagnosis.finding.endswith("Scale them to 0..255.")
    assert "BatchNormalization" not in str(diagnosis)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 3), (1, 2, 3)])
def test_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"`views` must be embeddings \(N, V, D\).*Received: shape="):
        embedding_health(np.ones(shape))
