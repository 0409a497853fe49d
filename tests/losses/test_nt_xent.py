"""NT-Xent, the loss of SimCLR (Chen et al. 2020, arXiv 2002.05709): `InfoNCE` of two views and of row numbers."""

import numpy as np
import pytest

import keras_tfcl
from helpers.gradients import value_and_gradient


def random_views(samples, size):
    """Two views of each sample, `(B, 2, D)`, as an augmenter and an encoder would give them."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(samples, 1, size)) + rng.normal(size=(samples, 2, size))


def algorithm_1(views, temperature):
    """The paper's pseudocode, line by line, on `(N, 2, D)`: z[2k] and z[2k + 1] are the two views of sample k."""
    samples = len(views)
    z = views.reshape(2 * samples, -1)
    s = np.array([[a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for b in z] for a in z])

    def loss(i, j):
        denominator = sum(np.exp(s[i, k] / temperature) for k in range(2 * samples) if k != i)
        return -np.log(np.exp(s[i, j] / temperature) / denominator)

    return sum(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(samples)) / (2 * samples)


def nt_xent(views, temperature=0.5):
    return float(keras_tfcl.InfoNCE(temperature, dtype="float64")(np.arange(len(views)), views))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("size", [2, 16, 64])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_value(samples, size, temperature):
    views = random_views(samples, size)
    assert nt_xent(views, temperature) == pytest.approx(algorithm_1(views, temperature), rel=1e-12, abs=1e-12)


def test_gradient():
    """By central differences of the pseudocode, in every coordinate."""
    views, step = random_views(3, 4), 1e-6
    _, gradient = value_and_gradient(keras_tfcl.InfoNCE(0.5, dtype="float64"), views)
    for index in np.ndindex(views.shape):
        moved = np.zeros(views.shape)
        moved[index] = step
        slope = (algorithm_1(views + moved, 0.5) - algorithm_1(views - moved, 0.5)) / (2 * step)
        assert gradient[index] == pytest.approx(slope, abs=1e-8)


def test_one_sample_has_no_negatives():
    assert nt_xent(random_views(1, 8)) == 0


@pytest.mark.parametrize("samples", [2, 7])
def test_equal_embeddings_leave_a_guess_among_all_others(samples):
    views = np.tile(random_views(1, 8)[:, :1], (samples, 2, 1))
    assert nt_xent(views) == pytest.approx(np.log(2 * samples - 1))


def test_opposite_samples_reach_the_least_value():
    """Each anchor has one positive of cosine 1, and two negatives of cosine -1."""
    views = np.array([[[1.0, 0.0], [1.0, 0.0]], [[-1.0, 0.0], [-1.0, 0.0]]])
    assert nt_xent(views, 0.5) == pytest.approx(np.log(1 + 2 * np.exp(-2 / 0.5)))


def test_lengths_and_the_order_of_views_and_samples_do_not_matter():
    views = random_views(5, 8)
    lengths = np.random.default_rng(1).uniform(0.1, 10.0, (5, 2, 1))
    for other in (views * lengths, views[:, ::-1], views[::-1]):
        assert nt_xent(other) == pytest.approx(nt_xent(views), rel=1e-12)


def test_nearer_positives_lower_it_and_nearer_negatives_raise_it():
    views = random_views(5, 8)
    middle = views.mean(axis=1, keepdims=True)
    assert nt_xent(views + 0.5 * (middle - views)) < nt_xent(views)
    assert nt_xent(views + 3.0 * views[:1, :1]) > nt_xent(views)
