"""The references of the rest of the family: independent of the library, and their gradients are their derivatives."""

import ast
import inspect

import numpy as np
import pytest

from keras_tfcl.testing import reference_family as family

CASES = {
    "debiased": (family.reweighted_loss, {"temperature": 0.5, "tau_plus": 0.1}),
    "hcl": (family.reweighted_loss, {"temperature": 0.5, "beta": 1.0, "tau_plus": 0.1}),
    "hcl_cross": (family.reweighted_loss, {"temperature": 0.3, "beta": 2.0, "cross_view_only": True}),
    "simple": (family.simple_loss, {}),
    "simple_hard": (family.simple_loss, {"weight": 0.3, "top_k": 2, "cross_view_only": True}),
    "sigmoid": (family.sigmoid_loss, {"scale": 10.0, "bias": -3.0}),
    "sigmoid_cross": (family.sigmoid_loss, {"scale": 5.0, "bias": -2.0, "cross_view_only": True}),
}


def test_imports_numpy_and_its_geometry_only():
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(family))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert names <= {"__future__", "math", "typing", "numpy", "numpy.typing", "keras_tfcl.testing.reference"}


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


def test_weights_of_the_decoupled_loss_are_constants_of_mean_one():
    """At equal positives w = 1: the value is DCL's, and so is the gradient."""
    x = np.random.default_rng(0).normal(size=(4, 3))
    x = np.stack([x, x], axis=1)  # identical views: every positive has cosine 1
    u = x[:, 0] / np.linalg.norm(x[:, 0], axis=1, keepdims=True)
    off = ~np.eye(4, dtype=bool)
    expected = [-1 / 0.2 + np.log(2 * np.exp((u @ u[i])[off[i]] / 0.2).sum()) for i in range(4)]
    losses = family.weighted_decoupled_loss(np.arange(4), x, temperature=0.2, sigma=0.5).losses
    np.testing.assert_allclose(losses, np.repeat(np.array(expected)[:, None], 2, axis=1))
