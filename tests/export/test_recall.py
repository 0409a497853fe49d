"""Neighbour overlap against plain loops."""

import numpy as np
import pytest

from keras_tfcl.export.recall import compare_neighbours


def clouds(n, noise, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 8))
    return rows, rows + noise * rng.normal(size=(n, 8))


def cosines_by_hand(rows):
    unit = rows / np.sqrt((rows**2).sum(1))[:, None]
    return np.array([[u @ v for j, v in enumerate(unit) if j != i] for i, u in enumerate(unit)])


@pytest.mark.parametrize(("n", "depths"), [(3, [1]), (20, [1]), (21, [1, 10]), (200, [1, 10]), (201, [1, 10, 100])])
def test_only_depths_that_mean_something(n, depths):
    assert list(compare_neighbours(*clouds(n, 0.1)).overlap) == depths


@pytest.mark.parametrize(("n", "noise"), [(60, 0.01), (60, 5.0), (520, 0.3)])  # within one block, and across two
def test_against_plain_loops(n, noise):
    a, b = clouds(n, noise)
    recall = compare_neighbours(a, b)
    first, second = cosines_by_hand(a), cosines_by_hand(b)
    for k, share in recall.overlap.items():
        near = [[set(np.argsort(-row)[:k]) for row in table] for table in (first, second)]
        assert share == pytest.approx(np.mean([len(x & y) / k for x, y in zip(*near, strict=True)]))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert (recall.mean_cosine, recall.min_cosine) == pytest.approx((cosine.mean(), cosine.min()))
    assert recall.rows == n


def test_a_collapsed_encoder_gives_numbers():
    same = np.ones((30, 4))
    assert compare_neighbours(same, same).overlap == {1: 1, 10: 1}
    assert 0 <= compare_neighbours(same, clouds(30, 0)[0][:, :4]).overlap[10] < 1


def test_cosine_alone_would_not_show_it():
    """Rows around one direction: cosines above 0.999, and most neighbours exchanged."""
    rng = np.random.default_rng(0)
    a = np.ones((100, 16)) + 0.01 * rng.normal(size=(100, 16))
    recall = compare_neighbours(a, a + 0.01 * rng.normal(size=a.shape))
    assert recall.min_cosine > 0.999
    assert recall.overlap[1] < 0.5
