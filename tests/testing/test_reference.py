"""The reference is independent of the library, its gradient is the derivative of its value, its limits are known."""

import ast
import inspect
import math

import numpy as np
import pytest

from keras_tfcl.testing import reference

OPTIONS = [
    {"temperature": 0.2},
    {"arctanh_scale": 2.0},
    {"arctanh_scale": 1.0, "top_k": 3},
    {"temperature": 0.5, "alpha": 0.5},
    {"temperature": 0.5, "decoupled": True},
    {"temperature": 0.5, "cross_view_only": True},
]


def test_imports_nothing_of_the_library():
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(reference))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert names <= {"__future__", "math", "collections.abc", "typing", "numpy", "numpy.typing"}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradient_is_the_derivative_of_the_value(options):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(5, 2, 3)), np.array([0, 1, 2, 2, 4])
    weights = rng.uniform(size=(5, 2))
    direction = rng.normal(size=x.shape)

    def value(step):
        losses, valid, _ = reference.contrastive_loss(labels, x + step * direction, weights=weights, **options)
        return (weights * losses).sum() / valid.sum()

    expected = (value(1e-6) - value(-1e-6)) / 2e-6
    gradient = reference.contrastive_loss(labels, x, weights=weights, **options).gradient
    assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("options", [{"temperature": 0.1}, {"arctanh_scale": 2.0}], ids=str)
def test_equal_similarities_give_log_of_the_number_of_terms(options):
    orthogonal = np.eye(8).reshape(4, 2, 8)  # every cosine is 0: 7 terms in each denominator
    losses = reference.contrastive_loss(np.arange(4), orthogonal, **options).losses
    np.testing.assert_allclose(losses, math.log(7))


def test_supervised_loss_is_at_least_log_of_the_positives():
    """Khosla et al. 2020: with |P| positives the loss does not fall below log |P|; equality at collapsed classes."""
    x = np.repeat(np.eye(2), 4, axis=0)  # two classes of four equal embeddings
    losses = reference.contrastive_loss(np.repeat([0, 1], 4), x, temperature=0.02).losses
    np.testing.assert_allclose(losses, math.log(3), rtol=1e-6)
