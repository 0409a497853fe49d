"""The statistics, the page and the figure of the benchmarks, from made-up rows whose answers are known."""

import csv
import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
TEMPERATURES = (0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1.0)


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_paired_difference_is_that_of_scipy(module):
    analysis = module("analysis")
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.52, 0.02, 7), rng.normal(0.5, 0.02, 7)
    found = analysis.paired(dict(enumerate(a)), {**dict(enumerate(b)), 99: 1.0})  # a seed that only one has
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.seeds == 7
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.deviation == pytest.approx(np.std(a - b, ddof=1))
    assert math.isnan(analysis.paired({0: 0.5}, {0: 0.4}).low)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.05, "better"),
        (-0.005, 0.005, "equivalent"),
        (-0.005, 0.05, "not inferior"),
        (-0.009, -0.001, "worse, within the margin"),
        (-0.05, -0.001, "worse"),
        (-0.05, 0.05, "open"),
        (math.nan, math.nan, "open"),
    ],
)
def test_verdicts(module, low, high, verdict):
    assert module("analysis").Difference((low + high) / 2, 0.01, low, high, 5).verdict == verdict


def test_bootstrap_is_near_that_of_scipy(module):
    values = np.random.default_rng(1).normal(0.2, 0.3, 6)
    found = module("analysis").bootstrap_interval(values)
    random = np.random.default_rng(2)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=random)
    assert found == pytest.approx(tuple(expected.confidence_interval), abs=0.01)


def test_best_scale_and_slope(module):
    analysis = module("analysis")
    scales = (2, 4, 8, 16, 32)
    assert analysis.best_scale({c: -((math.log(c) - math.log(6)) ** 2) for c in scales}) == pytest.approx(6)
    assert analysis.best_scale({c: -c for c in scales}) == 2
    dimensions, noise = (32, 64, 128, 256, 512), np.random.default_rng(0).normal(1, 0.01, (5, 3))
    for exponent in (0.5, 0.0):
        best = np.array(dimensions)[:, None] ** exponent * noise
        slope, low, high = analysis.slope(dimensions, best)
        assert slope == pytest.approx(stats.linregress(np.log(dimensions), np.log(best).mean(1)).slope)
        assert low <= slope <= high and low < exponent + 0.02 and high > exponent - 0.02


def made_up_score(dataset, setting, seed):
    """The best τ is 0.1 on a and 0.5 on b; arctanh 8 is 0.02 better than all τ, arctanh 2 as bad as the worst."""
    best = {"a": 0.1, "b": 0.5}[dataset]
    noise = np.random.default_rng(seed).normal(0, 0.02)  # of the seed, so that differences are paired
    noise += np.random.default_rng([seed, *setting.encode()]).normal(0, 0.0005)
    if setting.startswith("infonce"):
        return 0.8 - 0.1 * abs(math.log(float(setting.split()[1]) / best)) + noise
    worst = 0.8 - 0.1 * max(abs(math.log(t / best)) for t in TEMPERATURES)
    return {"arctanh 8": 0.82, "arctanh 2": worst}.get(setting, 0.79) + noise


@pytest.fixture
def folder(tmp_path, module):
    settings = module("results").SETTINGS
    made = {"": [], "_test": []}
    for seed in range(3):
        for dataset in "ab":
            for setting in settings if seed < 2 else settings[:-1]:  # the third seed is not complete
                key = {"dataset": dataset, "setting": setting, "seed": seed}
                score = {"accuracy": round(made_up_score(dataset, setting, seed), 6), "other": 0.1}
                shape = dict.fromkeys(("uniformity", "mean_cosine", "effective_rank"), 2.5)
                made[""].append({**key, **score, **shape, "tolerance": "", "seconds": 36})
                made["_test"].append({**key, **score})
    made["_test"].append({"dataset": "a", "setting": "untrained", "seed": 0, "accuracy": 0.25, "other": 0.1})
    for dataset in ("a", "b"):  # ahead of arctanh with c = √(D − 2) by 0.05 on both data sets of the only task
        for seed in range(2):
            score = made_up_score(dataset, "arctanh fisher", seed) + 0.05
            row = {"dataset": dataset, "setting": "centred", "seed": seed, "accuracy": score, "other": 0.1}
            made["_test"].append(row)
    made["_test"].append({"dataset": "b", "setting": "raw", "seed": 0, "accuracy": 0.875, "other": 0.1})
    (tmp_path / "benchmarks").mkdir()
    for suffix, rows in made.items():
        with open(tmp_path / "benchmarks" / f"graph_classification{suffix}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return tmp_path


def test_page_and_tables_say_what_the_rows_hold(module, folder):
    module("table").main(folder)
    assert (folder / "benchmarks" / "regret.png").stat().st_size > 10_000
    page, tables = ((folder / name).read_text() for name in ("README.md", "benchmarks/tables.md"))
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in page.splitlines()}
    assert cells["τ tuned on validation"][:2] == ["0.00", "0.00"]
    assert cells["arctanh, c = 2 (the paper's)"] == ["1.00", "1.00", "1.00", "0, 2, 0", "0, 0, 2", "1"]
    assert cells["arctanh, c = 8"][3:] == ["2, 0, 0", "2, 0, 0", "1"]
    assert float(cells["arctanh, c = 8"][0].replace("−", "-")) < 0
    assert (
        "**Not decided yet. So far, win / tie / loss against a τ tuned on validation, c = 2: 0 / 0 / 2, c = 8: 2"
        in page
    )
    assert "centred**: win / tie / loss 2 / 0 / 0 on 2 data sets, ahead on 1 of 1 tasks. It does not enter" in page
    assert "| b | 2 | +0.0500 [+0.0500, +0.0500] | win |" in page and "centred" not in tables
    assert "ahead of the best temperature on b (raw 0.875, best τ 0.8" in page
    assert "2 of 7 seeds" in page and "2 seeds each" in page
    assert "0.3 hours" in page  # 7 temperatures, 2 data sets, 2 seeds of 36 seconds
    mean = np.mean([made_up_score("a", "infonce 0.1", seed) for seed in range(2)])
    assert f"**{mean:.4f} ±" in tables  # bold: tuned on validation
    assert "| untrained | 0.2500 | – |" in tables
    transferred = next(line for line in tables.splitlines() if line.startswith("| b (τ = 0.5)"))
    span = 0.1 * math.log(1.0 / 0.1)  # on a: τ = 1 is the worst
    assert float(transferred.split(" | ")[1]) == pytest.approx(0.1 * math.log(5) / span, abs=0.02)


def test_the_page_is_written_before_any_seed_is_complete(module, tmp_path):
    module("table").main(tmp_path)
    assert "no seed is complete" in (tmp_path / "README.md").read_text()


def test_five_seeds_decide(module):
    """Yes where no data set is inferior, no where one is worse."""
    page, results = module("page"), module("results")
    settings = {name: dict.fromkeys(range(5), 0.8) for name in results.SETTINGS}
    settings["infonce 0.5"] = dict.fromkeys(range(5), 0.7)
    settings["arctanh 2"] = dict.fromkeys(range(5), 0.75)
    settings["arctanh fisher"] = dict(enumerate((0.9, 0.7, 0.9, 0.7, 0.8)))
    found = [results.Result("graph_classification", "a", "accuracy", settings, settings, {}, {}, {})]
    assert page.headline(found) == "c = 2: no (worse on 1 of 1 data sets), c = 8: yes, c = √(D − 2): open."
