"""Every public name is documented, and every example in a docstring runs."""

import doctest
import importlib
import inspect
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
import keras_tfcl.export

MODULES = sorted(info.name for info in pkgutil.walk_packages(keras_tfcl.__path__, "keras_tfcl."))


@pytest.mark.parametrize("name", ["keras_tfcl", *MODULES])
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    known = {"np": np, "tf": tf, "keras": keras, "keras_tfcl": keras_tfcl}
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(module, extraglobs=known, optionflags=options)
    assert result.failed == 0


@pytest.mark.parametrize(
    "module",
    [keras_tfcl, keras_tfcl.ops, keras_tfcl.diagnostics, keras_tfcl.evaluation, keras_tfcl.export],
    ids=lambda m: m.__name__,
)
def test_public_names_are_documented(module):
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
            assert len(value.__doc__.split()) > 5, name
