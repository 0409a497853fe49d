"""Anomaly detection: data, splits that keep test anomalies apart, views and scores."""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
needs_rdata = pytest.mark.skipif(importlib.util.find_spec("rdata") is None, reason="rdata reads R's files")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("anomaly_detection")
    module.load_table.cache_clear()
    module.load_split.cache_clear()
    return module


def numbered_table(script, normal=50, anomalies=12):
    """Every sample is its own number, in two columns."""
    count = normal + anomalies
    anomalous = np.zeros(count, bool)
    anomalous[::5][:anomalies] = True
    return script.Table(np.stack([np.arange(count), -np.arange(count)], axis=1).astype(float), anomalous)


@needs_rdata
@pytest.mark.filterwarnings("ignore:Unknown encoding")
def test_tables_of_mlbench(script, monkeypatch, tmp_path):
    """Anomalous classes are marked, and those that are in neither form are left out."""
    import pandas as pd
    import rdata

    folder = tmp_path / "mlbench" / "data"
    folder.mkdir(parents=True)
    classes = ["Rad.Flow", "High", "Bypass", "Rad.Flow", "Bpv.Close"]
    frame = pd.DataFrame({"V1": [1.0, 2, 3, 4, 5], "V2": [5.0, 4, 3, 2, 1], "Class": pd.Categorical(classes)})
    frame.index = pd.RangeIndex(1, 6)  # as R counts
    rdata.write_rda(folder / "Shuttle.rda", {"Shuttle": frame})
    monkeypatch.setattr(script, "R_LIBRARIES", (str(tmp_path),))
    assert script.available() == ["shuttle", "breast_cancer"]
    table = script.load_table("shuttle")
    np.testing.assert_array_equal(table.samples, [[1, 5], [3, 3], [4, 2], [5, 1]])
    np.testing.assert_array_equal(table.anomalous, [False, True, False, True])


def test_absent_tables_are_named(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "R_LIBRARIES", ("nowhere",))
    assert script.AnomalyDetection().datasets == ("breast_cancer",)
    assert "left out: shuttle, satellite" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="r-cran-mlbench"):
        script.load_table("shuttle")


def test_split(script):
    """Each sample is in one part, no anomaly in training, and training samples alone set the scale."""
    table = numbered_table(script)
    split = script.split_table(table)
    parts = [split.train, split.validation.samples, split.test.samples]
    assert [len(part) for part in parts] == [20, 10 + 4, 20 + 8]
    np.testing.assert_allclose(split.train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(split.train.std(axis=0), 1, rtol=1e-6)
    order = np.argsort(np.argsort(np.concatenate(parts)[:, 0]))  # the samples' numbers, whatever the scale
    np.testing.assert_array_equal(np.sort(order), np.arange(62))
    expected = [np.zeros(20, bool), split.validation.anomalous, split.test.anomalous]
    np.testing.assert_array_equal(table.anomalous[order], np.concatenate(expected))
    assert split.validation.anomalous.sum() == 4 and split.test.anomalous.sum() == 8


def test_other_test_samples_change_nothing_before_the_test(script):
    """Training and validation data are the same bits when all test samples are others."""
    table = numbered_table(script)
    before = script.split_table(table)
    rng = np.random.default_rng(0)
    normal, anomalies = (rng.permutation(np.flatnonzero(table.anomalous == value)) for value in (False, True))
    samples = table.samples.copy()
    samples[np.concatenate([normal[30:], anomalies[4:]])] += 1e6
    after = script.split_table(script.Table(samples, table.anomalous))
    np.testing.assert_array_equal(after.train, before.train)
    np.testing.assert_array_equal(after.validation.samples, before.validation.samples)
    assert np.abs(after.test.samples).min() > 1e3  # all of them, so that the two lines above could fail


def test_validation_needs_nothing_of_the_test(script, monkeypatch):
    split = script.split_table(numbered_table(script))._replace(test=None)
    monkeypatch.setattr(script, "load_split", lambda dataset: split)
    scores = split.validation.anomalous.astype(float)
    metrics = script.AnomalyDetection().validate("any", {"validation_scores": scores})
    assert metrics == {"auroc": 1.0, "average_precision": 1.0}
    metrics = script.AnomalyDetection().validate("any", {"validation_scores": -scores})
    assert metrics["auroc"] == 0.0


def test_views_take_values_of_the_same_feature(script):
    samples = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    first, second = (script.Corruption().augment(tf.constant(samples), [3, n]).numpy() for n in (0, 1))
    assert first.shape == samples.shape and not np.array_equal(first, second)
    for feature in range(6):
        assert np.isin(first[:, feature], samples[:, feature]).all()
    assert np.mean(first != samples) == pytest.approx(script.CORRUPTION, abs=0.05)


def test_batches_hold_no_sample_twice(script, monkeypatch):
    monkeypatch.setattr(script, "BATCH", 8)
    samples = np.arange(20, dtype="float32")[:, None]
    ordered = script.batches(samples, steps=7, seed=0)[:, 0]
    assert len(ordered) == 56
    assert all(len(set(batch)) == 8 for batch in ordered.reshape(7, 8))
    assert not np.array_equal(ordered, script.batches(samples, steps=7, seed=1)[:, 0])


def test_scores_are_distances_to_normal_samples(script):
    rng = np.random.default_rng(0)
    train, queries = rng.normal(size=(30, 4)), rng.normal(size=(7, 4))
    expected = [np.sort([np.linalg.norm(q - t) for t in train])[: script.NEIGHBOURS].mean() for q in queries]
    np.testing.assert_allclose(script.distances(train, queries), expected, rtol=1e-6)


@pytest.mark.slow
def test_tiny_run(script, monkeypatch, tmp_path):
    """Both commands, on the data that scikit-learn has: one row a run, then test metrics and baselines."""
    task = script.AnomalyDetection()
    harness = importlib.import_module("harness")
    settings = ("infonce 0.1", "arctanh 2")
    for command in ("train", "test"):
        arguments = ["--datasets", "breast_cancer", "--seeds", "0", "--tiny", "--runs", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["anomaly_detection.py", command, *arguments])
        harness.main(task, settings)
    tested = harness.read_table(tmp_path / "anomaly_detection_test.csv")
    assert [row["setting"] for row in tested] == [*settings, "raw features", "isolation forest", "untrained"]
    assert all(0.5 < row["auroc"] <= 1 for row in tested)
