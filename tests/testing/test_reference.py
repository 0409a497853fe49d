"""The references are independent of the library, their gradients are derivatives of their values, limits are known."""

import ast
import inspect
import math

import numpy as np
import pytest

from keras_tfcl.testing import reference
from keras_tfcl.testing import reference_family as family

CASES = {
    "infonce": (reference.contrastive_loss, {"temperature": 0.2}),
    "arctanh": (reference.contrastive_loss, {"arctanh_scale": 2.0}),
    "arctanh_hard": (reference.contrastive_loss, {"arctanh_scale": 1.0, "top_k": 3}),
    "hard": (reference.contrastive_loss, {"temperature": 0.5, "alpha": 0.5}),
    "decoupled": (reference.contrastive_loss, {"temperature": 0.5, "decoupled": True}),
    "cross_view": (reference.contrastive_loss, {"temperature": 0.5, "cross_view_only": True}),
    "debiased": (family.reweighted_loss, {"temperature": 0.5, "tau_plus": 0.1}),
    "hcl": (family.reweighted_loss, {"temperature": 0.5, "beta": 1.0, "tau_plus": 0.1}),
    "hcl_cross": (family.reweighted_loss, {"temperature": 0.3, "beta": 2.0, "cross_view_only": True}),
    "simple": (family.simple_loss, {}),
    "simple_hard": (family.simple_loss, {"weight": 0.3, "top_k": 2, "cross_view_only": True}),
    "sigmoid": (family.sigmoid_loss, {"scale": 10.0, "bias": -3.0}),
    "sigmoid_cross": (family.sigmoid_loss, {"scale": 5.0, "bias": -2.0, "cross_view_only": True}),
}
ALLOWED = {"__future__", "math", "collections.abc", "typing", "numpy", "numpy.typing", reference.__name__}


@pytest.mark.parametrize("module", [reference, family])
def test_imports_nothing_else_of_the_library(module):
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert names <= ALLOWED


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_derivative_of_the_value(name):
    function, options = CASES[name]
    rng = np.random.default_rng(1)
    x, labels, weights = rng.normal(size=(5, 2, 3)), np.array([0, 1, 2, 2, 4]), rng.uniform(size=(5, 2))
    direction = rng.normal(size=x.shape)

    def value(step):
        losses, valid, _ = function(labels, x + step * direction, weights=weights, **options)
        return (weights * losses).sum() / valid.sum()

    expected = (value(1e-6) - value(-1e-6)) / 2e-6
    gradient = function(labels, x, weights=weights, **options).gradient
    assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-6, abs=1e-8)


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


def test_weights_of_the_decoupled_loss_are_constants_of_mean_one():
    """At equal positives w = 1: the value is DCL's, and so is the gradient."""
    x = np.random.default_rng(0).normal(size=(4, 3))
    x = np.stack([x, x], axis=1)  # identical views: every positive has cosine 1
    u = x[:, 0] / np.linalg.norm(x[:, 0], axis=1, keepdims=True)
    off = ~np.eye(4, dtype=bool)
    expected = [-1 / 0.2 + np.log(2 * np.exp((u @ u[i])[off[i]] / 0.2).sum()) for i in range(4)]
    losses = family.weighted_decoupled_loss(np.arange(4), x, temperature=0.2, sigma=0.5).losses
    np.testing.assert_allclose(losses, np.repeat(np.array(expected)[:, None], 2, axis=1))
