"""Private names of Keras and TensorFlow are touched in one file, which says why."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_tfcl
from keras_tfcl import _keras_compat

ROOT = Path(__file__).parents[1]
COMPAT = ROOT / "keras_tfcl/_keras_compat.py"
FILES = sorted([*(ROOT / "keras_tfcl").rglob("*.py"), *(ROOT / "export").rglob("*.py")])
PRIVATE_MODULES = ("keras.src", "tensorflow.python", "tensorflow.core", "tensorflow.compiler")
NAMED_TUPLE = {"_asdict", "_fields", "_field_defaults", "_make", "_replace"}  # public, says Python's documentation


TABLES = {"ALL_OBJECTS", "ALL_OBJECTS_DICT"}  # of Keras' modules, in no public interface


def is_private(name):
    return name in TABLES or (name.startswith("_") and not name.startswith("__"))


def private_names_touched(source):
    """Private attributes read or written, and private modules imported or named."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.Constant) and str(node.value).startswith(PRIVATE_MODULES):
            yield node.value
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"getattr", "setattr", "hasattr"}:
            yield from (name for name in [getattr(node.args[1], "value", "")] if is_private(name))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(PRIVATE_MODULES))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PRIVATE_MODULES):
            yield node.module


def own_names(sources):
    """Names that the library itself defines: functions, classes, fields, and attributes set on `self`."""
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    yield node.attr
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def foreign_names(sources):
    """{source index: private names that the library does not define}."""
    own = set(own_names(sources)) | NAMED_TUPLE
    return [set(private_names_touched(source)) - own for source in sources]


def test_no_other_module_touches_a_private_name():
    files = [file for file in FILES if file != COMPAT]
    found = foreign_names([file.read_text() for file in files])
    touched = {str(file.relative_to(ROOT)): names for file, names in zip(files, found, strict=True) if names}
    assert not touched, f"Move these into {COMPAT.relative_to(ROOT)}: {touched}"


@pytest.mark.parametrize(
    "line",
    [
        "model._flatten_layers()",
        "self._tracker.unlock()",
        "super()._maybe_symbolic_build()",
        "getattr(optimizer, '_iterations')",
        "sys.modules[keras.losses.get.__module__].ALL_OBJECTS_DICT",
        "import keras.src.ops",
        "from tensorflow.python.eager import context",
        "importlib.import_module('keras.src.backend')",
    ],
)
def test_the_search_finds(line):
    assert foreign_names([line])[0]


def test_the_search_passes_our_own_names():
    assert (
        foreign_names(
            [
                "class A:\n    def __init__(self): self._size = 1\n    async def _work(self): pass",
                "a._size, a._work, pair._replace(x=1)",
            ]
        )
        == [set()] * 2
    )


def library_classes():
    for module in pkgutil.walk_packages(keras_tfcl.__path__, "keras_tfcl."):
        if not module.name.endswith("__main__"):
            for value in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(value) and value.__module__ == module.name:
                    yield value


def test_no_class_overrides_a_private_method():
    """A method of ours with the name of one of Keras' own private methods would take its place unseen."""
    overridden = {
        f"{ours.__qualname__}.{name}"
        for ours in library_classes()
        for base in ours.__mro__
        if base.__module__.startswith(("keras.", "tensorflow."))
        for name, value in vars(ours).items()
        if is_private(name) and name in vars(base) and getattr(value, "__module__", None) != _keras_compat.__name__
    }
    assert not overridden


@pytest.mark.parametrize("function", [n for n in ast.parse(COMPAT.read_text()).body if isinstance(n, ast.FunctionDef)])
def test_reason_and_version_are_given(function):
    text = ast.get_docstring(function)
    for name in set(private_names_touched(ast.unparse(function))):
        assert f"`{name}`: " in text, f"{function.name} touches {name}, and does not say why."
    assert "Seen in Keras 3." in text.replace("\n", " ")


def test_keras_knows_the_names_of_the_losses():
    assert isinstance(keras.losses.get("arctanh_infonce"), keras_tfcl.ArctanhInfoNCE)


def small_model():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")])
    return keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2, name="c")])


def test_layers_at_every_depth():
    model = small_model()
    names = {layer.name for layer in _keras_compat.nested_layers(model)}
    assert {"a", "b", "c", model.name} <= names
    assert [layer.name for layer in _keras_compat.inner_layers(model) if "dense" in str(type(layer))] == ["c"]


def test_a_built_layer_takes_new_parts_only_when_unlocked():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    with pytest.raises(ValueError, match="cannot add"):
        layer.more = keras.layers.Dense(2)
    with _keras_compat.unlocked(layer):
        layer.more = keras.layers.Dense(2)
    with pytest.raises(ValueError, match="cannot add"):
        layer.another = keras.layers.Dense(2)


@pytest.mark.parametrize("scaled", [False, True])
def test_batches_are_counted_where_gradients_accumulate(scaled):
    model = small_model()
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, "mse")
    model.fit(np.ones((12, 4)), np.ones((12, 2)), batch_size=2, verbose=0)
    assert _keras_compat.batches_seen(model.optimizer) == 6


def test_policy_of_one_layer():
    shared = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_float16")
    layer, other = keras.layers.Dense(2, dtype=shared), keras.layers.Dense(2, dtype=shared)
    own = _keras_compat.dtype_policy(layer)
    policy = keras.dtype_policies.get("float32")
    _keras_compat.set_variable_dtype(policy, "float16")
    _keras_compat.set_dtype_policy(layer, policy)
    assert (layer.compute_dtype, layer.variable_dtype) == ("float32", "float16")
    assert other.compute_dtype == "float16"
    _keras_compat.set_dtype_policy(layer, own)
    assert layer.compute_dtype == "float16"
