"""docs/diagnostics.md: its code runs, its tables name what exists."""

import re
import warnings
from pathlib import Path

import pytest

import keras_tfcl
from keras_tfcl import diagnostics
from keras_tfcl.callbacks import CollapseWarning

PAGE = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()


@pytest.mark.slow
def test_code_runs(tmp_path, monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.chdir(tmp_path)
    scope = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # one epoch of a linear encoder may earn one
        for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
            exec(compile(block, "docs/diagnostics.md", "exec"), scope)
    assert (tmp_path / "gradients.png").exists() and (tmp_path / "runs/logs/sprite.png").exists()


def test_every_diagnostic_and_metric_is_there():
    named = set(re.findall(r"`(\w+)[`(]", PAGE))
    functions = {n for n in diagnostics.__all__ if n[0].islower() and not n.startswith("plot_")}
    assert functions - {"embedding_statistics", "read_table", "run_table"} <= named
    assert set(keras_tfcl.metrics.__all__) <= named
    assert {"CollapseMonitor", "EmbeddingProjector"} <= named
