"""The task of sequential recommendation: parsers, the split, the ranking beside a loop, and a tiny run."""

import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def sequences(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("sequences")


@pytest.fixture
def task(sequences):
    return importlib.import_module("sequential_recommendation")


@pytest.fixture
def histories(sequences):
    """Twenty users of 4 to 23 items, none of them twice."""
    rng = np.random.default_rng(0)
    return sequences.Histories([1 + rng.permutation(30)[: 4 + user] for user in range(20)], 30)


def test_movielens_is_sorted_by_time_then_file_order(sequences, tmp_path):
    rows = ["user\titem\trating\ttime", "2\t5\t3\t70", "1\t9\t1\t50", "2\t6\t3\t60", "1\t4\t1\t50", "2\t8\t3\t60"]
    (tmp_path / "file").write_text("\n".join(rows))
    users = sequences.movielens(tmp_path / "file")
    assert [user.tolist() for user in users] == [[9, 4], [6, 8, 5]]


def test_a_line_a_user(sequences, tmp_path):
    (tmp_path / "file").write_text("7 1 2 3\n8 5 4\n")
    assert [user.tolist() for user in sequences.lines(tmp_path / "file")] == [[1, 2, 3], [5, 4]]


@pytest.mark.parametrize("length", [1, 3, 50])
def test_windows_hold_every_step_once_and_nothing_that_is_held_out(sequences, histories, length):
    items, targets = sequences.windows(histories.before("validation"), length)
    assert items.shape == targets.shape and items.shape[1] == length
    assert np.array_equal(items == 0, targets == 0)
    steps = sorted(zip(items[items > 0].tolist(), targets[targets > 0].tolist(), strict=True))
    expected = sorted((int(a), int(b)) for user in histories.users for a, b in itertools.pairwise(user[:-2]))
    assert steps == expected
    for row, after in zip(items, targets, strict=True):  # no gaps: each target is the next window item
        count = np.count_nonzero(row)
        assert np.array_equal(row[1:count], after[: count - 1]) and not row[count:].any()


def test_what_is_known_and_what_is_asked(histories):
    for user, validation, test, known, more in zip(
        histories.users, histories.next_item("validation"), histories.next_item("test"),
        histories.before("validation"), histories.before("test"), strict=True,
    ):  # fmt: skip
        assert [*known, validation, test] == user.tolist() and [*known, validation] == more.tolist()
    counts = histories.popularity()
    assert counts.shape == (30,) and counts.sum() == sum(len(user) - 2 for user in histories.users)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_hit_rate_and_ndcg_beside_a_loop(sequences, histories, part):
    rng = np.random.default_rng(1)
    users, items = rng.normal(size=(20, 5)), rng.normal(size=(30, 5))
    hits, gains = [], []
    for user, history in zip(users, histories.users, strict=True):
        known, target = (history[:-2], history[-2]) if part == "validation" else (history[:-1], history[-1])
        scores = {item: users_score(user, items[item - 1]) for item in range(1, 31) if item not in known}
        rank = 1 + sum(score > scores[target] for item, score in scores.items() if item != target)
        hits.append(rank <= 10)
        gains.append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
    found = sequences.next_item_metrics(histories, part, users, items)
    assert found["hit_rate@10"] == pytest.approx(np.mean(hits)) and 0 < np.mean(hits) < 1
    assert found["ndcg@10"] == pytest.approx(np.mean(gains))


def users_score(user, item):
    return user @ item / np.linalg.norm(user) / np.linalg.norm(item)


def test_popularity_ranks_by_count(sequences, histories):
    taste, items = sequences.by_popularity(histories)
    cosines = (items @ taste[0]) / np.linalg.norm(items, axis=1)
    counts = histories.popularity()
    order = np.argsort(-cosines, kind="stable")
    assert (np.diff(counts[order]) <= 0).all() and len(set(counts.tolist())) > 3


def test_a_user_does_not_know_the_future_nor_the_padding(task):
    user_tower, item_tower = task.towers(items=20, length=4)
    history = np.array([[3, 5, 7, 9], [3, 5, 0, 0], [3, 5, 8, 1]], "int32")
    states = user_tower.predict(history.reshape(-1, 1), verbose=0).reshape(3, 4, -1)
    np.testing.assert_allclose(states[0, :2], states[1, :2], atol=1e-6)
    np.testing.assert_allclose(states[0, :2], states[2, :2], atol=1e-6)
    assert np.abs(states[0, 2] - states[2, 2]).max() > 0.01
    expected = states[[0, 1, 2], [3, 1, 3]]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(task.latest(user_tower, history), expected, atol=2e-3)
    assert user_tower.get_layer("items") is item_tower.get_layer("items")


def test_batches_are_whole_windows(task):
    items = np.arange(1, 25, dtype="int32").reshape(6, 4)
    seen = []
    for (x, y), labels in task.batches(items, items + 100, 2, seed=0):
        assert x.shape == y.shape == (8, 1) and labels.shape == (8,)
        assert np.array_equal(x[:, 0] + 100, labels) and np.array_equal(y[:, 0], labels)
        seen += x.numpy().reshape(2, 4).tolist()
    assert sorted(seen) == items.tolist() and seen != items.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["ML-100K", "Beauty"])
def test_tiny_run(task, dataset, tmp_path):
    try:
        task.FILES[dataset]()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    command = [sys.executable, str(BENCHMARKS / "sequential_recommendation.py"), "train", "--tiny"]
    command += [
        "--runs",
        str(tmp_path),
        "--seeds",
        "0",
        "--datasets",
        dataset,
        "--settings",
        "infonce 0.1",
        "learnable",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    recommender = task.SequentialRecommendation()
    with np.load(tmp_path / "sequential_recommendation" / dataset / "learnable_seed_0.npz") as outputs:
        metrics = recommender.test(dataset, dict(outputs))
    assert 0 <= metrics["ndcg@10"] <= metrics["hit_rate@10"] <= metrics["hit_rate@20"] <= 1
    assert set(recommender.baselines(dataset, tiny=True)) == {"popularity", "untrained"}
