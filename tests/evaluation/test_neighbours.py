"""Nearest neighbours and their vote against loops in float64."""

import ml_dtypes
import numpy as np
import pytest

from helpers.labelled_sets import sets_by_direction
from keras_tfcl.evaluation import knn_accuracy, nearest_neighbours


def neighbours_vote(train, labels, val, val_labels, k):
    """The vote of the k nearest by cosine, row by row, in float64."""
    unit = [row / np.linalg.norm(row) for row in np.asarray(train, "float64")]
    right = 0
    for row, label in zip(np.asarray(val, "float64"), val_labels, strict=True):
        nearest = sorted(range(len(unit)), key=lambda i: -(unit[i] @ row))[:k]
        votes = [labels[i] for i in nearest]
        right += max(sorted(set(votes)), key=votes.count) == label
    return right / len(val)


@pytest.fixture
def sets():
    return sets_by_direction()


@pytest.mark.parametrize("k", [1, 5, 20])
def test_equals_a_vote_by_hand(sets, k):
    (train, labels), (val, val_labels) = sets
    expected = neighbours_vote(train, labels, val, val_labels, k)
    assert knn_accuracy(train, labels, val, val_labels, k) == expected
    assert 0.3 < expected < 1  # the comparison has something to compare


def test_a_zero_vector_has_cosine_0():
    """It is farther than a neighbour of a small cosine, and nearer than one of a negative cosine."""
    train, labels = [[0.0, 0.0], [1.0, 3.0], [-1.0, 3.0]], [0, 1, 2]
    assert knn_accuracy(train, labels, [[1.0, 0.0]], [1], k=1) == 1.0
    assert knn_accuracy(train, labels, [[0.0, -1.0]], [0], k=1) == 1.0


def test_k_is_capped_at_the_number_of_neighbours(sets):
    (train, labels), (val, val_labels) = sets
    everyone = neighbours_vote(train, labels, val, val_labels, len(train))
    assert knn_accuracy(train, labels, val, val_labels, 1000) == everyone


def test_takes_half_precision_columns_of_labels_and_feature_maps(sets):
    (train, labels), (val, val_labels) = sets
    plain = knn_accuracy(train, labels, val, val_labels, 3)
    shaped = knn_accuracy(train.reshape(-1, 2, 3), labels[:, None], val.reshape(-1, 2, 3), val_labels[:, None], 3)
    assert shaped == plain
    halves = (x.astype(ml_dtypes.bfloat16) for x in (train, val))
    assert knn_accuracy(next(halves), labels, next(halves), val_labels, 3) == pytest.approx(plain, abs=0.1)


def test_diverged_embeddings_are_named(sets):
    (train, labels), (val, val_labels) = sets
    broken = np.where(np.arange(40)[:, None] < 3, np.nan, train)
    with pytest.raises(ValueError, match=r"`train_embeddings` must be finite. Received: NaN or Inf in 3 of 40 samples"):
        knn_accuracy(broken, labels, val, val_labels)


def test_sizes_that_differ_are_named(sets):
    (train, labels), (val, val_labels) = sets
    with pytest.raises(ValueError, match=r"equal sizes. Received: 6 and 5"):
        knn_accuracy(train, labels, val[:, :5], val_labels)


def test_neighbours_are_ordered_by_cosine(sets):
    x = sets[0][0].copy()
    x[5] = 0.0  # a zero vector has cosine 0 with all
    unit = [row / (np.linalg.norm(row) or 1.0) for row in x.astype("float64")]
    for query, found in enumerate(nearest_neighbours(x, queries=7, neighbours=4)):
        if query != 5:
            order = sorted((i for i in range(len(unit)) if i != query), key=lambda i, q=query: -(unit[q] @ unit[i]))
            assert list(found) == order[:4]
    assert nearest_neighbours(x, queries=2, neighbours=99).shape == (2, len(x) - 1)
