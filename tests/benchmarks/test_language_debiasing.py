"""The task of language debiasing: the swap, the parsers, the effect size beside a loop, and a tiny run."""

import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
for package in ("safetensors", "tokenizers"):
    pytest.importorskip(package)


@pytest.fixture
def task(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("language_debiasing")


def test_the_swap_is_an_involution(task):
    words = task.PAIRS.replace(",", " ").split()
    assert len(words) == len(set(words)) == len(task.SWAP)
    for word in words:
        assert task.SWAP[word] != word and task.SWAP[task.SWAP[word]] == word
    sentence = "He said: the king's Daughter isn't his manager; Men, mandate, shepherd."
    swapped = task.swap_gender(sentence)
    assert swapped == "She said: the queen's Son isn't her manager; Women, mandate, shepherd."
    assert task.swap_gender(swapped) == sentence


def test_sentences_that_can_be_swapped(task):
    assert task.can_swap("The man sleeps") and task.can_swap("She did")
    assert not task.can_swap("the mandate") and not task.can_swap("she saw him") and not task.can_swap("a dog of hers")


def test_usage_examples_of_a_line_of_wordnet(task):
    line = '00004475 00 a 01 x 0 000 | of a kind; "his polished manner"; "she wailed (loudly)"  '
    assert task.usage_examples(line) == ["his polished manner", "she wailed (loudly)"]
    assert task.usage_examples("  1 This software and database is being provided") == []


def test_names_of_validation_and_test_differ(task):
    dev, test = task.word_lists("dev"), task.word_lists("test")
    for names in ("men", "women"):
        assert len(dev[names]) == len(test[names]) == 32 and not set(dev[names]) & set(test[names])
    assert not set(map(str.lower, dev["men"] + dev["women"] + test["men"] + test["women"])) & set(task.SWAP)
    assert {k: v for k, v in dev.items() if k not in ("men", "women")}.items() <= test.items()


def naive_association(x, y, a, b):
    def cosine(u, v):
        return u @ v / np.sqrt(u @ u) / np.sqrt(v @ v)

    def s(w):
        return np.mean([cosine(w, v) for v in a]) - np.mean([cosine(w, v) for v in b])

    values = [s(w) for w in [*x, *y]]
    difference = np.mean(values[: len(x)]) - np.mean(values[len(x) :])
    as_far = []
    for chosen in itertools.combinations(range(len(values)), len(x)):
        others = [i for i in range(len(values)) if i not in chosen]
        by_chance = np.mean([values[i] for i in chosen]) - np.mean([values[i] for i in others])
        as_far.append(abs(by_chance) >= abs(difference) - 1e-12)
    return difference / np.std(values, ddof=1), np.mean(as_far)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_effect_size_beside_a_loop(task, shift):
    x, y, a, b = np.random.default_rng(3).normal(size=(4, 5, 6)) * [1, 2, 3, 1, 1, 1]
    a, x = a + shift, x + shift
    effect, p = task.association(x, y, a, b)
    expected, exact = naive_association(x, y, a, b)
    assert effect == pytest.approx(expected, rel=1e-10)
    assert p == pytest.approx(exact, abs=0.02)  # 10,000 random splits of 252
    assert task.association(y, x, a, b)[0] == pytest.approx(-expected, rel=1e-10)


def test_effect_size_is_largest_for_words_that_do_not_overlap(task):
    a, b = np.eye(2)[[0, 0]], np.eye(2)[[1, 1]]
    effect, p = task.association(np.eye(2)[[0] * 8], np.eye(2)[[1] * 8], a, b)
    assert effect == pytest.approx(2 * np.sqrt(15 / 16), rel=1e-10) and p < 0.01


def test_main_metric_needs_both(task, monkeypatch):
    """Embeddings that carry nothing score below those that carry meaning."""
    rng = np.random.default_rng(0)
    scores = np.arange(50.0)
    a = rng.normal(size=(50, 8))
    b = a + (50 - scores)[:, None] / 10 * rng.normal(size=(50, 8))
    monkeypatch.setattr(task, "scored_pairs", lambda part: ([], [], scores))
    words = sum(map(len, task.word_lists("dev").values())) * len(task.TEMPLATES)
    vectors = rng.normal(size=(words, 8))
    good = task.utility_and_fairness("dev", {"dev_a": a, "dev_b": b, "dev_words": vectors})
    useless = task.utility_and_fairness("dev", {"dev_a": a, "dev_b": rng.normal(size=(50, 8)), "dev_words": vectors})
    assert good["spearman"] > 0.5 and good["bias"] == pytest.approx(useless["bias"])
    assert useless["utility_and_fairness"] < good["utility_and_fairness"] - 0.15
    expected = (good["spearman"] + 1 - np.mean([abs(good[f"effect_{name}"]) for name in task.CONCEPTS]) / 2) / 2
    assert good["utility_and_fairness"] == pytest.approx(expected)


@pytest.mark.slow
def test_tiny_run(task, tmp_path):
    minilm = importlib.import_module("minilm")
    try:
        minilm.model_folder(), task.scored_pairs("dev"), task.gendered_examples()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    command = [sys.executable, str(BENCHMARKS / "language_debiasing.py"), "train", "--tiny", "--runs", str(tmp_path)]
    command += ["--seeds", "0", "--settings", "infonce 0.1", "arctanh 8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    trained = task.LanguageDebiasing()
    for setting in ("infonce_0.1", "arctanh_8"):
        with np.load(tmp_path / "language_debiasing" / "wordnet" / f"{setting}_seed_0.npz") as outputs:
            metrics = trained.test("wordnet", dict(outputs))
        assert 0.5 < metrics["utility_and_fairness"] < 1 and metrics["spearman"] > 0.5
    assert trained.baselines("wordnet", tiny=True)["frozen encoder"]["spearman"] > 0.7
