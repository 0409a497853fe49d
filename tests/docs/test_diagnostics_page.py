"""docs/diagnostics.md: its tables name what exists."""

import re
from pathlib import Path

import keras_tfcl
from keras_tfcl import diagnostics

PAGE = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()


def test_every_diagnostic_and_metric_is_there():
    named = set(re.findall(r"`(\w+)[`(]", PAGE))
    functions = {n for n in diagnostics.__all__ if n[0].islower() and not n.startswith("plot_")}
    assert functions - {"embedding_statistics", "read_table", "run_table", "write_table"} <= named
    assert set(keras_tfcl.metrics.__all__) <= named
    assert {"CollapseMonitor", "EmbeddingProjector"} <= named
