"""docs/export.md: its code runs, its tables name what exists."""

import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_tfcl.export
from keras_tfcl.export import OnnxEncoder, export_onnx

PAGE = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    encoder = keras.Sequential([keras.Input((96, 96, 3)), keras.layers.AveragePooling2D(16), keras.layers.Flatten()])
    scope = {name: getattr(keras_tfcl.export, name) for name in keras_tfcl.export.__all__} | {
        "keras": keras,
        "model": encoder,
        "encoder": encoder,
        "images": np.ones((2, 96, 96, 3), "float32"),
        "path": folder / "pixels.onnx",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
            exec(compile(block, "docs/export.md", "exec"), scope)
    return folder


def rows_of(heading):
    return re.findall(r"^\| (`.*?)\|", PAGE.split(f"## {heading}\n")[1].split("\n## ")[0], flags=re.MULTILINE)


def test_table_of_arguments():
    documented = [re.match(r"`(\w+)=(\S+)`", row).groups() for row in rows_of("Arguments")]
    signature = inspect.signature(export_onnx).parameters.values()
    assert dict(documented) == {p.name: repr(p.default) for p in signature if p.kind is p.KEYWORD_ONLY}


def test_table_of_metadata(folder):
    documented = {name for row in rows_of("Metadata") for name in re.findall(r"`(\w+)`", row)}
    assert documented - {"data_file", "quantization", "tokenizer"} == set(OnnxEncoder(folder / "encoder.onnx").metadata)
