"""docs/losses.md: its code runs, its table names what exists."""

import re
from pathlib import Path

import keras

import keras_tfcl
import keras_tfcl.testing

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_extension_in_ten_lines_passes_the_conformance_suite():
    extension, decorated = BLOCKS
    scope = {"keras": keras, "keras_tfcl": keras_tfcl}
    exec(compile(extension, "docs/losses.md", "exec"), scope)  # check_loss raises if anything is wrong
    assert extension.split("\n\n\n")[0].count("\n") <= 10
    exec(compile(decorated, "docs/losses.md", "exec"), scope)
    (mark,) = scope["test_my_loss"].pytestmark
    assert mark.name == "parametrize"
    assert len(mark.args[1]) == len(keras_tfcl.testing.CHECKS)


def test_every_loss_has_a_row():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    first_cells = " ".join(line.split(" | ")[0] for line in rows)
    for name in set(keras_tfcl.losses.__all__) - {"EmbeddingLoss", "get"}:
        assert name in first_cells, name
    for name in re.findall(r"[A-Z]\w+", re.sub(r"[^`]*`([^`]*)`", r"\1 ", first_cells)):
        assert hasattr(keras_tfcl, name), name
    assert all(line.count(" | ") == 5 for line in rows)
