"""Every mutation of tools/mutate_losses.py still finds the line that it breaks."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_line_that_is_broken_exists():
    spec = importlib.util.spec_from_file_location("mutate_losses", ROOT / "tools/mutate_losses.py")
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    assert len(tool.MUTATIONS) >= 10
    for mutation in tool.MUTATIONS:
        assert mutation.old in (ROOT / "keras_tfcl" / mutation.file).read_text(), mutation.name
