"""Annotations say what a value is. `make types` checks that they agree with one another."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_ANY = 0.01  # of all annotations


def annotations(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.returns
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            yield node.annotation


def names_any(annotation):
    parts = [part for part in ast.walk(annotation) if isinstance(part, (ast.Name, ast.Constant))]
    return any("Any" in str(getattr(part, "id", getattr(part, "value", ""))) for part in parts)


def test_few_annotations_are_any():
    files = [file for folder in ("keras_tfcl", "export") for file in (ROOT / folder).rglob("*.py")]
    found = [part for file in files for part in annotations(ast.parse(file.read_text())) if part is not None]
    share = sum(map(names_any, found)) / len(found)
    assert len(found) > 1000
    assert share < MOST_ANY, f"{share:.1%} of {len(found)} annotations"


def test_no_alias_hides_any():
    for name in ("keras_tfcl/typing.py", "export/runtime/typing.py"):
        tree = ast.parse((ROOT / name).read_text())
        assert not any(names_any(node.value) for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))), (
            name
        )


def test_what_is_ignored_has_a_reason():
    """`# type: ignore[code]  # reason`"""
    for folder in ("keras_tfcl", "export"):
        for file in (ROOT / folder).rglob("*.py"):
            for line in file.read_text().splitlines():
                _, found, rest = line.partition("# type: ignore")
                assert not found or (rest.startswith("[") and "]  # " in rest), f"{file}: {line.strip()}"
