"""Every block of Python and every command on the pages runs, in the order of the page, in a short form.

A page may prepare what it talks about in a comment that readers do not see: `<!-- invisible-code-block: python ... -->`.
A block that cannot run here follows `<!-- skip: next -->`, with the reason.
"""

import os
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

import keras_tfcl
from helpers.images import write_photographs
from keras_tfcl.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]

# What a test does not run: installation, other programs, and a server that would never return.
NOT_RUN = re.compile(r"(pip|make|git|curl|docker|cd|python3? -m venv|keras-tfcl serve)\b")


def run_commands(example: Example) -> None:
    for line in example.parsed.splitlines():
        command = line.split(" #")[0].strip()
        if command.startswith("keras-tfcl") and not NOT_RUN.match(command):
            assert main(shlex.split(command)[1:]) == 0, command
        else:
            assert not command or NOT_RUN.match(command) or command.startswith(("#", "python examples/")), command


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with photographs, and `fit` that stops after two steps."""
    write_photographs(tmp_path / "photos", 48)
    monkeypatch.chdir(tmp_path)
    fit = keras.Model.fit

    def short(self, *args, epochs=1, **kwargs):
        return fit(self, *args, epochs=min(epochs, 1), **{"verbose": 0, **kwargs})

    monkeypatch.setattr(keras.Model, "fit", short)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, workspace):
    namespace = {"keras": keras, "np": np, "keras_tfcl": keras_tfcl, "ROOT": ROOT}
    parsers = [PythonCodeBlockParser(), CodeBlockParser("sh", run_commands), SkipParser()]
    document = Document.parse(os.fspath(ROOT / page), *parsers)
    document.namespace = namespace
    for example in document.examples():
        example.evaluate()
