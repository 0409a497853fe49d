"""The linear probe against gradient descent in NumPy."""

import numpy as np
import pytest

from helpers.labelled_sets import sets_by_scale
from keras_tfcl.evaluation import linear_accuracy


def regression(train, labels, val, regularization):
    """Predictions of a multinomial logistic regression on standardised features, by plain gradient descent."""
    mean, deviation = train.mean(0), train.std(0)
    x = np.column_stack([(train - mean) / deviation, np.ones(len(train))])
    classes = np.unique(labels)
    target = (labels[:, None] == classes).astype("float64")
    weights = np.zeros((x.shape[1], len(classes)))
    penalised = np.ones((x.shape[1], 1))
    penalised[-1] = 0  # not the bias
    for _ in range(5000):
        scores = np.exp(x @ weights - (x @ weights).max(1, keepdims=True))
        residual = scores / scores.sum(1, keepdims=True) - target
        weights -= (x.T @ residual + regularization * penalised * weights) / (len(x) + regularization)
    return classes[np.argmax(np.column_stack([(val - mean) / deviation, np.ones(len(val))]) @ weights, axis=1)]


@pytest.fixture(scope="module")
def sets():
    return sets_by_scale()


@pytest.mark.parametrize("regularization", [1.0, 200.0])
def test_equals_gradient_descent(sets, regularization):
    (train, labels), (val, val_labels) = sets
    expected = np.mean(regression(train.astype("float64"), labels, val, regularization) == val_labels)
    assert linear_accuracy(train, labels, val, val_labels, regularization) == pytest.approx(expected)
    assert 0.4 < expected < 1


def test_scale_of_the_features_does_not_matter(sets):
    (train, labels), (val, val_labels) = sets
    plain = linear_accuracy(train, labels, val, val_labels)
    assert linear_accuracy(train * 1e-3, labels, val * 1e-3, val_labels) == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regularization": 0}, "`regularization` must be a positive finite number. Received: regularization=0"),
        ({"max_iter": 0}, "`max_iter` must be an integer of at least 1. Received: max_iter=0"),
        ({"train_labels": [3, 3]}, "`train_labels` must hold at least two classes. Received: only"),
        ({"val_embeddings": np.ones((1, 3))}, "equal sizes. Received: 2 and 3"),
        ({"train_embeddings": [[np.nan, 0], [0, 1]]}, "`train_embeddings` must be finite. Received: NaN or Inf in 1"),
        ({"val_labels": [0, 1]}, "`val_embeddings` must be"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {
        "train_embeddings": np.eye(2), "train_labels": [0, 1], "val_embeddings": np.ones((1, 2)), "val_labels": [0],
        **change,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        linear_accuracy(**arguments)
