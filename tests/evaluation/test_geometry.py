"""The pure functions on arrays; their values in batches, with views and weights, are tested with the metrics."""

import numpy as np
import pytest

from keras_tfcl import evaluation

N, D = 30, 5


def embeddings(seed=0):
    return np.random.default_rng(seed).normal(size=(N, D)) * np.geomspace(1, 0.2, D)


def test_means_of_two_batches_combine_by_their_weights():
    labels, weights = np.arange(N) % 4, np.random.default_rng(1).uniform(0, 2, N)
    unit = embeddings() / np.linalg.norm(embeddings(), axis=1, keepdims=True)
    halves = [slice(0, 12), slice(12, N)]
    means = [evaluation.tolerance(labels[half], embeddings()[half], weights[half]) for half in halves]
    total = weight = 0.0
    for half in halves:
        for i in range(*half.indices(N)):
            for j in range(*half.indices(N)):
                if i != j and labels[i] == labels[j]:
                    total += weights[i] * weights[j] * (unit[i] @ unit[j])
                    weight += weights[i] * weights[j]
    combined = sum(float(mean.value) * float(mean.weight) for mean in means)
    assert combined / sum(float(mean.weight) for mean in means) == pytest.approx(total / weight, rel=1e-12)
    assert sum(float(mean.weight) for mean in means) == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("shape", [(N, D), (N // 2, 2, D)])
def test_effective_rank_equals_the_definition(shape):
    unit = embeddings() / np.linalg.norm(embeddings(), axis=1, keepdims=True)
    sigma = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    share = sigma / sigma.sum()
    expected = np.exp(-np.sum(share * np.log(share)))
    assert float(evaluation.effective_rank(embeddings().reshape(shape))) == pytest.approx(expected, rel=1e-9)
    assert float(evaluation.effective_rank(np.ones((7, D)))) == 0.0
    assert np.isnan(float(evaluation.effective_rank(np.full((7, D), np.nan))))


def test_no_pair_has_the_mean_0():
    for function in (evaluation.alignment, evaluation.gaussian_potential, evaluation.tolerance):
        assert [float(part) for part in function([3], np.ones((1, D)))] == [0.0, 0.0]
    assert float(evaluation.uniformity(evaluation.gaussian_potential([3], np.ones((1, D))).value)) == 0.0
