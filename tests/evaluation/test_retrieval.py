"""Retrieval against loops in float64 and scikit-learn."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from keras_tfcl.evaluation import pair_correlation, retrieval


def by_hand(queries, corpus, gains, excluded, k):
    """Sorts the whole corpus for each query; gains are dictionaries."""
    totals = {"mrr": 0.0, f"hit_rate@{k}": 0.0, f"recall@{k}": 0.0, f"ndcg@{k}": 0.0}
    judged = 0
    for query, gain, left_out in zip(np.float64(queries), gains, excluded, strict=True):
        relevant = {item for item, value in gain.items() if value > 0}
        if not relevant:
            continue
        judged += 1
        cosine = [query @ item / np.linalg.norm(query) / np.linalg.norm(item) for item in np.float64(corpus)]
        order = sorted(set(range(len(corpus))) - set(left_out), key=lambda item, cosine=cosine: -cosine[item])
        ranks = [rank for rank, item in enumerate(order, 1) if item in relevant]
        totals["mrr"] += 1 / ranks[0]
        totals[f"hit_rate@{k}"] += ranks[0] <= k
        totals[f"recall@{k}"] += sum(rank <= k for rank in ranks) / len(relevant)
        gained = sum(gain.get(item, 0) / math.log2(1 + rank) for rank, item in enumerate(order[:k], 1))
        best = sorted(gain.values(), reverse=True)[:k]
        totals[f"ndcg@{k}"] += gained / sum(value / math.log2(1 + rank) for rank, value in enumerate(best, 1))
    return {name: total / judged for name, total in totals.items()}


def problem(seed, queries=17, corpus=40, features=6):
    rng = np.random.default_rng(seed)
    q, c = rng.normal(size=(queries, features)), rng.normal(size=(corpus, features)) * rng.uniform(0.1, 9, (corpus, 1))
    gains, excluded = [], []
    for row in range(queries):
        items = rng.permutation(corpus)
        some = rng.integers(0 if row else 1, 6)
        gains.append({int(item): float(rng.integers(0, 4)) for item in items[:some]})
        excluded.append(items[some : some + rng.integers(0, 9)].tolist())
    gains[0][next(iter(gains[0]))] = 2.0
    return q.astype("float32"), c.astype("float32"), gains, excluded


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 10, 100])
def test_equals_a_sort_of_the_corpus(seed, k):
    arguments = problem(seed)
    expected = by_hand(*arguments, k)
    received = retrieval(*arguments, k=k)
    assert received.keys() == expected.keys()
    for name, value in expected.items():
        assert received[name] == pytest.approx(value, abs=1e-12), name


def test_strips_change_nothing(monkeypatch):
    queries, corpus, gains, excluded = problem(7)
    whole = retrieval(queries, corpus, gains, excluded)
    monkeypatch.setattr("keras_tfcl.evaluation.ranking.STRIP", 3 * len(corpus))
    assert retrieval(queries, corpus, gains, excluded) == whole


@pytest.mark.parametrize("k", [1, 5, 40])
def test_ndcg_equals_that_of_scikit_learn(k):
    queries, corpus, gains, _ = problem(3)
    gains = [gain if any(gain.values()) else {0: 1.0} for gain in gains]
    dense = np.zeros((len(queries), len(corpus)))
    for row, gain in enumerate(gains):
        dense[row, list(gain)] = list(gain.values())
    cosines = queries @ (corpus / np.linalg.norm(corpus, axis=1, keepdims=True)).T
    assert retrieval(queries, corpus, gains, k=k)[f"ndcg@{k}"] == pytest.approx(ndcg_score(dense, cosines, k=k))


def test_relevant_items_in_every_form():
    queries, corpus, _, _ = problem(1)
    only = np.arange(17) * 2
    expected = retrieval(queries, corpus, [{int(item): 1.0} for item in only])
    for form in (only, only[:, None], [[item, item] for item in only], [{int(item)} for item in only]):
        assert retrieval(queries, corpus, form) == expected
    assert 0 < expected["recall@10"] < 1  # the comparison has something to compare


def test_queries_of_the_corpus_itself_leave_themselves_out():
    corpus = problem(2)[1]
    near = corpus @ corpus.T / np.linalg.norm(corpus, axis=1) / np.linalg.norm(corpus, axis=1)[:, None]
    np.fill_diagonal(near, -2)
    assert retrieval(corpus, corpus, near.argmax(1), exclude=np.arange(len(corpus)))["mrr"] == 1.0


def test_a_collapsed_encoder_finds_nothing():
    scores = retrieval(np.ones((5, 3)), np.ones((50, 3)), np.arange(5))
    assert scores["hit_rate@10"] == scores["ndcg@10"] == 0
    assert scores["mrr"] == pytest.approx(1 / 50)


def test_copies_of_a_relevant_item_may_all_be_relevant():
    corpus = np.concatenate([np.eye(8), np.eye(8)])
    assert retrieval(np.eye(8), corpus, [[i, i + 8] for i in range(8)], k=2)["ndcg@2"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevant": [[0]]}, "one entry for each query"),
        ({"relevant": [[0], [9]]}, "0 to 2"),
        ({"relevant": [[0], [-1]]}, "0 to 2"),
        ({"relevant": [[0.0], [1.0]]}, "dtype=float64"),
        ({"relevant": [{0: -1.0}, {1: 1.0}]}, "at least 0"),
        ({"relevant": [{0: np.nan}, {1: 1.0}]}, "finite"),
        ({"relevant": [[], []]}, "at least one query"),
        ({"exclude": [[0], []]}, "no relevant item"),
        ({"k": 0}, "`k`"),
        ({"k": (1, 2.5)}, "`k`"),
        ({"queries": np.ones((2, 5))}, "equal sizes"),
        ({"queries": np.ones(3)}, "`queries`"),
        ({"corpus": np.full((3, 3), np.nan)}, "`corpus` must be finite"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"queries": np.eye(3)[:2], "corpus": np.eye(3), "relevant": [[0], [1]]}
    with pytest.raises(ValueError, match=message):
        retrieval(**{**arguments, **change})


@pytest.mark.parametrize("seed", range(4))
def test_pair_correlation_equals_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 30, 5))
    b[::4], a[::4] = b[0] * rng.uniform(1, 9, (8, 1)), a[0]  # ties among the cosines, but for their rounding
    scores = rng.integers(0, 5, 30)
    cosines = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    expected = spearmanr(np.round(cosines, 12), scores).statistic
    assert pair_correlation(a, b, scores) == pytest.approx(expected, abs=1e-12)


def test_pairs_that_are_not_ranked_have_no_correlation():
    assert pair_correlation(np.ones((4, 2)), np.ones((4, 2)), [1, 2, 3, 4]) == 0


@pytest.mark.parametrize("scores", [[1, 1, 1], [1, 2, np.nan], [1, 2]])
def test_scores_that_rank_nothing_are_refused(scores):
    with pytest.raises(ValueError, match="scores"):
        pair_correlation(np.eye(3), np.ones((3, 3)), scores)
