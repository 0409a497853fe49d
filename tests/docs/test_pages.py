"""Every block of Python and every command on the pages runs, in the order of the page, in a short form.

A page may assume the files of `trained` and the names `keras`, `np` and `keras_tfcl`. Whatever else it needs, it
prepares in a comment that readers do not see, `<!-- invisible-code-block: python ... -->`. A block that cannot run here
follows `<!-- skip: next "reason" -->`.
"""

import re
import shlex
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

import keras_tfcl
from helpers.images import write_photographs
from keras_tfcl.cli import main
from keras_tfcl.export import export_onnx

ROOT = Path(__file__).resolve().parents[2]
# Their code runs in the tests of their names.
ELSEWHERE = {f"docs/{page}.md" for page in ("export", "losses", "serving", "server", "training")}
PAGES = sorted({"README.md", *(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))} - ELSEWHERE)

# Installation, other programs, servers, which would never return, and long scripts with tests of their own.
NOT_RUN = re.compile(r"(pip|make|git|curl|docker|cd|tensorboard|python3?|keras-tfcl (serve|triton))\b")
SHORTER = {"train": ["--epochs", "1", "--image-size", "32", "--batch-size", "16", "--quiet"]}
JUDGES = {"diagnose", "quantize", "doctor"}  # their exit code is 1 for poor quality, and one epoch gives no better


def run_commands(example: Example) -> None:
    for line in example.parsed.splitlines():
        command = line.split(" #")[0].strip()
        if not command or command.startswith("#") or NOT_RUN.match(command):
            continue
        program, *arguments = shlex.split(command)
        assert program == "keras-tfcl", f"{command}: list it in NOT_RUN, or run it"
        assert main([*arguments, *SHORTER.get(arguments[0], [])]) <= (arguments[0] in JUDGES), command


def small_encoder(name="small", image_size=32, channels=3, weights=None):
    """Stands for `build_backbone`, whose nets are tested elsewhere and take long."""
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3, 4), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((image_size, image_size, channels)), *layers, keras.layers.Flatten()])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Files that pages assume: `photos/`, `run.keras`, `encoder.onnx`, `held_out.npz`, `texts.txt`."""
    folder = tmp_path_factory.mktemp("pages")
    write_photographs(folder / "photos", 256)
    write_photographs(folder / "new-photos", 2)
    shutil.copy(folder / "photos/0001.jpg", folder / "cat.jpg")
    augmenter = keras_tfcl.layers.image_augmenter("photos", (32, 32, 3))
    model = keras_tfcl.ContrastiveModel(small_encoder(), augmenter=augmenter)
    model.compile("adam", keras_tfcl.InfoNCE(0.2))
    model.save(folder / "run.keras")
    export_onnx(model, folder / "encoder.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "held_out.npz", x=pixels, y=np.arange(96) % 4)
    return folder


@pytest.fixture
def workspace(trained, tmp_path, monkeypatch):
    """A copy of those files, and a `fit` that stops after one epoch."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    fit = keras.Model.fit

    def short(self, *args, epochs=1, **kwargs):
        return fit(self, *args, epochs=min(epochs, 1), **{"verbose": 0, **kwargs})

    monkeypatch.setattr(keras.Model, "fit", short)
    monkeypatch.setattr(keras_tfcl.models, "build_backbone", small_encoder)
    policy = keras.config.dtype_policy()
    yield tmp_path
    keras.config.set_dtype_policy(policy)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, workspace):
    parsers = [PythonCodeBlockParser(), CodeBlockParser("sh", run_commands), SkipParser()]
    document = Document.parse(str(ROOT / page), *parsers)
    document.namespace = {"keras": keras, "np": np, "keras_tfcl": keras_tfcl}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an epoch of a few steps earns some of ours
        for example in document.examples():
            example.evaluate()


def test_the_readme_quotes_the_results_as_they_are():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(("| arctanh", "| τ"))]
    assert len(rows) >= 5 and set(rows) <= set((ROOT / "examples/results/README.md").read_text().splitlines())


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
