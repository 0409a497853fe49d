"""The harness of the benchmarks, with a task that takes no time: resume, the sealed test set, whole files."""

import csv
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
SETTINGS = ("infonce 0.1", "arctanh 2")


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("harness")
    monkeypatch.setattr(module.keras.backend, "clear_session", lambda: None)  # collects the garbage of all other tests
    return module


class Toy:
    """Its only parameter is the seed; its test metric reads what validation must not see."""

    name, datasets, metric = "toy", ("a", "b"), "accuracy"

    def __init__(self, harness, fail_at=None):
        self.harness, self.fail_at, self.trained, self.seen = harness, fail_at, [], []

    def dimension(self, dataset):
        return 8

    def loss_keywords(self, dataset):
        return {"cross_view_only": True}

    def train(self, dataset, loss, seed, tiny):
        assert loss.cross_view_only and tiny
        if len(self.trained) == self.fail_at:
            raise KeyboardInterrupt
        self.trained.append((seed, dataset, loss.name))
        outputs = {"score": np.array(0.5 + seed / 10), "test_score": np.array(0.25 + seed / 10)}
        return self.harness.Trained(outputs, np.random.default_rng(seed).normal(size=(50, 8)), np.arange(50) % 2)

    def validate(self, dataset, outputs):
        self.seen.append(sorted(outputs))
        return {"accuracy": float(outputs["score"])}

    def test(self, dataset, outputs):
        return {"accuracy": float(outputs["test_score"])}

    def baselines(self, dataset, tiny):
        return {"untrained": {"accuracy": 0.125}}


def command(harness, monkeypatch, task, folder, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{task.name}.py", *arguments, "--tiny", "--runs", str(folder)])
    harness.main(task, SETTINGS)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_runs_come_seed_by_seed_and_are_not_repeated(harness, monkeypatch, tmp_path):
    task = Toy(harness, fail_at=5)
    with pytest.raises(KeyboardInterrupt):
        command(harness, monkeypatch, task, tmp_path, "train", "--seeds", "0", "1")
    assert [(row["seed"], row["dataset"]) for row in rows(tmp_path / "toy.csv")] == [
        ("0", "a"), ("0", "a"), ("0", "b"), ("0", "b"), ("1", "a"),
    ]  # fmt: skip
    before = (tmp_path / "toy.csv").read_text()
    again = Toy(harness)
    command(harness, monkeypatch, again, tmp_path, "train", "--seeds", "0", "1")
    assert [trained[:2] for trained in again.trained] == [(1, "a"), (1, "b"), (1, "b")]
    assert (tmp_path / "toy.csv").read_text().startswith(before)
    assert not list(tmp_path.rglob("*.part"))


def test_a_candidate_is_tested_after_the_settings_of_its_seed(harness, monkeypatch, tmp_path):
    command(harness, monkeypatch, Toy(harness), tmp_path, "train", "--seeds", "0", "--settings", "centred")
    command(harness, monkeypatch, Toy(harness), tmp_path, "test")
    assert not (tmp_path / "toy_test.csv").exists()
    command(harness, monkeypatch, Toy(harness), tmp_path, "train", "--seeds", "0", "--datasets", "a")
    command(harness, monkeypatch, Toy(harness), tmp_path, "test")
    tested = [(row["dataset"], row["setting"]) for row in rows(tmp_path / "toy_test.csv")]
    assert tested == [("a", "infonce 0.1"), ("a", "arctanh 2"), ("a", "centred"), ("a", "untrained")]


def test_no_run_starts_without_time(harness, monkeypatch, tmp_path):
    task = Toy(harness)
    command(harness, monkeypatch, task, tmp_path, "train", "--seeds", "0", "--minutes", "0")
    assert not task.trained and not (tmp_path / "toy.csv").exists()


def test_the_test_set_is_sealed(harness, monkeypatch, tmp_path):
    task = Toy(harness)
    command(harness, monkeypatch, task, tmp_path, "train", "--seeds", "0")
    command(harness, monkeypatch, task, tmp_path, "train", "--seeds", "1", "--settings", SETTINGS[0])
    assert task.seen == [["score"]] * 6
    assert {row["accuracy"] for row in rows(tmp_path / "toy.csv")} == {"0.5", "0.6"}
    assert not (tmp_path / "toy_test.csv").exists()
    command(harness, monkeypatch, task, tmp_path, "test", "--seeds", "0", "1")
    tested = rows(tmp_path / "toy_test.csv")
    # Seed 1 lacks a setting: its test metrics stay closed.
    assert [(row["dataset"], row["setting"], row["seed"], row["accuracy"]) for row in tested] == [
        *((dataset, setting, "0", "0.25") for dataset in "ab" for setting in SETTINGS),
        *((dataset, "untrained", "0", "0.125") for dataset in "ab"),
    ]
    command(harness, monkeypatch, task, tmp_path, "test", "--seeds", "0", "1")
    assert rows(tmp_path / "toy_test.csv") == tested


def test_lost_outputs_are_made_again_unless_they_were_tested(harness, monkeypatch, tmp_path):
    command(harness, monkeypatch, Toy(harness), tmp_path, "train", "--seeds", "0", "1")
    command(harness, monkeypatch, Toy(harness), tmp_path, "test", "--seeds", "0")
    before = rows(tmp_path / "toy.csv")
    for seed in (0, 1):
        (tmp_path / "toy" / "a" / f"arctanh_2_seed_{seed}.npz").unlink()
    again = Toy(harness)
    command(harness, monkeypatch, again, tmp_path, "train", "--seeds", "0", "1")
    assert [trained[:2] for trained in again.trained] == [(1, "a")]
    assert len(rows(tmp_path / "toy.csv")) == len(before)
    (tmp_path / "toy" / "a" / "arctanh_2_seed_1.npz").unlink()
    again = Toy(harness)
    monkeypatch.setattr(sys, "argv", ["toy.py", "train", "--seeds", "1", "--tiny", "--runs", str(tmp_path)])
    harness.main(again, SETTINGS, has_test=False)
    assert not again.trained


def test_other_outputs_than_those_of_the_row_are_refused(harness, monkeypatch, tmp_path):
    command(harness, monkeypatch, Toy(harness), tmp_path, "train", "--seeds", "0")
    np.savez(tmp_path / "toy" / "a" / "infonce_0.1_seed_0.npz", test_score=np.array(1.0))
    with pytest.raises(ValueError, match=r"infonce 0.1, seed 0 .* Received: other outputs"):
        command(harness, monkeypatch, Toy(harness), tmp_path, "test", "--seeds", "0")


def test_geometry_against_numpy(harness):
    z = np.random.default_rng(0).normal(size=(40, 6)) + 0.5
    labels = np.arange(40) % 3
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    cosine, other = unit @ unit.T, ~np.eye(40, dtype=bool)
    singular = np.linalg.svd(unit - unit.mean(0), compute_uv=False)
    share = singular / singular.sum()
    measured = harness.geometry(z, labels)
    same = other & (labels[:, None] == labels)
    assert measured["mean_cosine"] == pytest.approx(cosine[other].mean(), abs=1e-5)
    assert measured["tolerance"] == pytest.approx(cosine[same].mean(), abs=1e-5)
    assert measured["uniformity"] == pytest.approx(-np.log(np.exp(4 * cosine[other] - 4).mean()), abs=1e-5)
    assert measured["effective_rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), abs=1e-3)
    assert harness.geometry(z, None)["tolerance"] == ""
