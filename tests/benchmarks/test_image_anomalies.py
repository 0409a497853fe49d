"""Anomalies among images: the reader, and validation that is apart from training and test."""

import gzip
import importlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """With a small data set: every image is its own number, and its class the number modulo 10."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("image_anomalies")
    for part, first, count in (("train", 0, 400), ("test", 400, 100)):
        numbers = np.arange(first, first + count)
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
        for file, values in zip(module.FILES[part], (images, (numbers % 10).astype(np.uint8)), strict=True):
            header = struct.pack(">4B", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
            (tmp_path / file).write_bytes(gzip.compress(header + values.tobytes()))
    monkeypatch.setattr(module, "FOLDERS", (tmp_path,))
    monkeypatch.setattr(module, "TRAIN", 20)
    monkeypatch.setattr(module, "VALIDATION_NORMAL", 10)
    monkeypatch.setattr(module, "VALIDATION_ANOMALIES", 30)
    caches = module.load_images, module.load_split
    for cached in caches:
        cached.cache_clear()
    yield module
    for cached in caches:
        cached.cache_clear()


def numbers(images):
    return (images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 1, 0]).tolist()


def test_reader(script):
    images, labels = script.load_images("train")
    assert images.shape == (400, 28, 28, 1) and images.dtype == np.uint8
    assert numbers(images) == list(range(400)) and labels[:12].tolist() == [*range(10), 0, 1]


@pytest.mark.parametrize("normal", [0, 7])
def test_split(script, normal):
    """Training holds the normal class alone; no image is in two parts; test images are those of the test files."""
    split = script.load_split(normal)
    train, validation, test = (
        numbers(images) for images in (split.train, split.validation.samples, split.test.samples)
    )
    assert len(train) == 20 and all(number % 10 == normal for number in train)
    assert len(set(train) | set(validation)) == 20 + 10 + 30
    assert max(train + validation) < 400 and test == list(range(400, 500))
    for part, found in ((split.validation, validation), (split.test, test)):
        np.testing.assert_array_equal(part.anomalous, np.array(found) % 10 != normal)
    assert split.validation.anomalous.sum() == 30


def test_validation_needs_nothing_of_the_test(script, monkeypatch):
    split = script.load_split(3)
    monkeypatch.setattr(script, "load_split", lambda normal: split._replace(test=None))
    outputs = {"normal_class": np.array(3), "validation_scores": split.validation.anomalous.astype(float)}
    assert script.ImageAnomalies().validate("fashion_mnist", outputs)["auroc"] == 1.0


def test_absent_data_are_named(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(script, "FOLDERS", (tmp_path / "nowhere",))
    assert script.ImageAnomalies().datasets == ()
    assert "left out: fashion_mnist" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        script.load_images("test")


@pytest.mark.slow
def test_tiny_run(script, monkeypatch, tmp_path):
    """Both commands, on the small data set."""
    monkeypatch.setattr(script, "TRAIN", 30)
    monkeypatch.setattr(script, "VALIDATION_NORMAL", 5)
    for module in ("anomaly_detection", "image_anomalies"):
        monkeypatch.setattr(importlib.import_module(module), "BATCH", 16)
    harness = importlib.import_module("harness")
    settings = ("infonce 0.1", "pps")
    for command in ("train", "test"):
        monkeypatch.setattr(
            sys, "argv", ["image_anomalies.py", command, "--seeds", "3", "--tiny", "--runs", str(tmp_path)]
        )
        harness.main(script.ImageAnomalies(), settings)
    tested = harness.read_table(tmp_path / "image_anomalies_test.csv")
    assert [row["setting"] for row in tested] == [*settings, "raw pixels", "isolation forest", "untrained"]
    assert all(0 <= row["auroc"] <= 1 for row in tested)
