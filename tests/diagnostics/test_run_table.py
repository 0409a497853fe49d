import csv

import pytest

from keras_tfcl.diagnostics import read_table, run_table


def run(setting, seed):
    return {"length": len(setting), "half": seed / 2, "word": "x"}


def test_first_seed_of_all_comes_first(tmp_path):
    path, order = tmp_path / "deep" / "runs.csv", []
    rows = run_table(path, ["a", "bb"], [0, 1], lambda *key: order.append(key) or run(*key), {"epochs": 3})
    assert order == [("a", 0), ("bb", 0), ("a", 1), ("bb", 1)]
    assert rows[3] == {"setting": "bb", "seed": 1, "epochs": 3, "length": 2, "half": 0.5, "word": "x"}
    assert rows == read_table(path)
    with open(path) as file:
        assert [row["setting"] for row in csv.DictReader(file)] == ["a", "bb", "a", "bb"]


def test_continues_where_it_stopped(tmp_path):
    path, done = tmp_path / "runs.csv", []

    def fails(setting, seed):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((setting, seed))
        return run(setting, seed)

    with pytest.raises(KeyboardInterrupt):
        run_table(path, ["a", "b", "c"], [0], fails)
    assert [row["setting"] for row in read_table(path)] == ["a", "b"]
    again = []
    rows = run_table(path, ["c", "a", "b"], [0], lambda *key: again.append(key) or run(*key))
    assert again == [("c", 0)]
    assert [row["setting"] for row in rows] == ["c", "a", "b"]
    assert [file.name for file in tmp_path.iterdir()] == ["runs.csv"]


def test_settings_that_look_like_numbers_are_found_again(tmp_path):
    path, calls = tmp_path / "runs.csv", []
    for _ in range(2):
        rows = run_table(path, ["0.10", "1"], [0], lambda *key: calls.append(key) or run(*key))
    assert len(calls) == 2
    assert [row["setting"] for row in rows] == ["0.10", "1"]


def test_other_constants_are_refused(tmp_path):
    path = tmp_path / "runs.csv"
    run_table(path, ["a"], [0], run, {"epochs": 3, "data": "digits", "augmented": True, "limit": None})
    before = path.read_text()
    run_table(path, ["a"], [0], run, {"epochs": 3, "data": "digits", "augmented": True, "limit": None})
    with pytest.raises(ValueError, match=r"must hold runs with epochs=4. Received: epochs=3 in the row of 'a'"):
        run_table(path, ["a", "b"], [0], run, {"epochs": 4, "data": "digits", "augmented": True, "limit": None})
    assert path.read_text() == before


def test_other_columns_are_refused_and_nothing_is_lost(tmp_path):
    path = tmp_path / "runs.csv"
    run_table(path, ["a"], [0], run)
    before = path.read_text()
    with pytest.raises(ValueError, match="All rows must have the columns"):
        run_table(path, ["a", "b"], [0], lambda setting, seed: {"other": 1})
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["runs.csv"]
