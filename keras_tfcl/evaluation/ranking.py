"""How high the relevant items of a corpus are ranked for each query, and whether pairs are ranked as scored."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl.evaluation.checks import check_finite, unit_vectors
from keras_tfcl.ops.hard import TIE
from keras_tfcl.validation import positive_integer

# The items of a query: an index, some indices, or the gain of each.
Entry: TypeAlias = int | Collection[int] | Mapping[int, float]
Relevant: TypeAlias = Sequence[Entry] | np.ndarray

STRIP = 2**22  # cosines that are held at a time: 32 MiB in float64


def retrieval(
    queries: ArrayLike,
    corpus: ArrayLike,
    relevant: Relevant,
    exclude: Relevant | None = None,
    k: int | Sequence[int] = (1, 10),
) -> dict[str, float]:
    """Judges a ranking of the corpus by cosine, for each query: hit rate, recall, MRR and NDCG.

    With the ranks of a query's R relevant items, 1 for the nearest, and their gains g:

        hit_rate@k = 1 if a rank is at most k, else 0
        recall@k   = (number of ranks up to k) / R
        mrr        = 1 / (smallest rank)
        ndcg@k     = (sum over ranks r up to k of g / log2(1 + r)) / (the same of the best order)

    Each is the mean over the queries that have a relevant item. The whole corpus is ranked, exactly, and memory
    is linear in its size. Ties count against the query: an item that is not relevant goes first. An encoder that
    maps everything to one point therefore finds nothing.

    Args:
        queries: embeddings `(Q, D)`, need not be normalised.
        corpus: embeddings `(C, D)`.
        relevant: integers `(Q,)`, the index in the corpus of each query's only relevant item; or a sequence of Q
            entries, each a collection of indices (repeated ones count once), or a dictionary from index to gain, a
            finite number of at least 0, where 0 is not relevant. Gains enter NDCG as they are; other metrics ask only
            whether they are above 0.
        exclude: the same without gains: items that are left out of a query's ranking, such as those a user has
            seen, or the query itself. Defaults to None.
        k: one or several cutoffs, integers of at least 1. Defaults to (1, 10).

    Returns:
        A dictionary with `"mrr"`, and for each cutoff `"hit_rate@10"`, `"recall@10"` and `"ndcg@10"`, all in [0, 1].

    Raises:
        ValueError: for embeddings of another shape, NaN or Inf, numbers of entries that differ from Q, indices outside
            the corpus, gains below 0, an excluded item that is relevant, no query with a relevant item.

    Example:

    >>> corpus = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> scores = retrieval([[1.0, 0.1], [0.1, 1.0]], corpus, relevant=[[1], [2]], k=1)
    >>> scores["mrr"], scores["hit_rate@1"]
    (0.75, 0.5)
    >>> retrieval([[1.0, 0.1]], corpus, relevant=[{1: 2.0, 2: 1.0}], exclude=[[0]], k=2)["ndcg@2"]
    1.0

    Reference: Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20(4).
    """
    cutoffs = [positive_integer("k", x, "Use k=(1, 10).") for x in (k if isinstance(k, Sequence) else [k])]
    queries, corpus = _embeddings("queries", queries), _embeddings("corpus", corpus)
    if queries.shape[1] != corpus.shape[1]:
        raise ValueError(
            f"`queries` and `corpus` must have equal sizes. Received: {queries.shape[1]} and {corpus.shape[1]}. Embed "
            "both with encoders that were trained together."
        )
    gains = _gains("relevant", relevant, len(queries), len(corpus))
    left_out = _gains("exclude", [[]] * len(queries) if exclude is None else exclude, len(queries), len(corpus))
    both = sum(bool(np.intersect1d(a.item, b.item).size) for a, b in zip(gains, left_out, strict=True))
    if both:
        raise ValueError(
            "`exclude` must hold no relevant item of the same query. Received: such an item in "
            f"{both} of {len(queries)} queries. Take it out of `exclude` or out of `relevant`."
        )
    if not any(items.item.size for items in gains):
        raise ValueError(
            "`relevant` must name a relevant item for at least one query. Received: none. Pass indices of the corpus, "
            "for example relevant=[[3, 5], [0]]."
        )
    scores = [
        _scores(ranks, items.gain, cutoffs)
        for ranks, items in _ranked(unit_vectors(queries), unit_vectors(corpus), gains, left_out)
    ]
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def pair_correlation(a: ArrayLike, b: ArrayLike, scores: ArrayLike) -> float:
    """Computes Spearman's rank correlation between the cosines and the scores of N pairs, in [-1, 1].

    Tied values share the mean of their ranks. Where all cosines are equal, the pairs are not ranked at all, and the
    result is 0.

    Args:
        a, b: embeddings `(N, D)`; row i of `a` and row i of `b` are a pair. N is at least 2.
        scores: `(N,)`, finite numbers such as graded similarities from 0 to 5.

    Returns:
        The correlation.

    Raises:
        ValueError: for shapes that differ, fewer than two pairs, NaN or Inf, scores that are all equal.

    Example:

    >>> pair_correlation([[1.0, 0.0]] * 3, [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], [5.0, 3.5, 0.0])
    1.0

    Reference: Spearman 1904; the measure of the STS benchmark, Cer et al. 2017, arXiv 1708.00055.
    """
    a, b, scores = _embeddings("a", a), _embeddings("b", b), np.asarray(scores, "float64").reshape(-1)
    if a.shape != b.shape or len(a) != len(scores) or len(a) < 2:
        raise ValueError(
            "`a` and `b` must be embeddings (N, D) of the two sides of at least two pairs, with N scores. Received: "
            f"shapes {a.shape} and {b.shape} with {len(scores)} scores. Pass one row and one score for each pair."
        )
    if not np.isfinite(scores).all() or (scores == scores[0]).all():
        raise ValueError(
            "`scores` must be finite and not all equal. Received: "
            f"{len(np.unique(scores))} different values, {int((~np.isfinite(scores)).sum())} of them NaN or Inf. Leave "
            "out pairs without a score."
        )
    cosines = np.round(np.sum(unit_vectors(a) * unit_vectors(b), axis=1), 12)  # equal ones differ by their rounding
    if np.ptp(cosines) == 0:
        return 0.0
    return float(np.clip(np.corrcoef(_ranks(cosines), _ranks(scores))[0, 1], -1.0, 1.0))


class _Items(NamedTuple):
    item: np.ndarray  # (R,), distinct indices of the corpus
    gain: np.ndarray  # (R,), above 0


def _ranked(
    queries: np.ndarray, corpus: np.ndarray, relevant: list[_Items], exclude: list[_Items]
) -> Iterator[tuple[np.ndarray, _Items]]:
    """Of each query with relevant items: their ranks, ascending, and the items in that order."""
    height = max(1, STRIP // len(corpus))
    for start in range(0, len(queries), height):
        cosines = queries[start : start + height] @ corpus.T
        for row, items, left_out in zip(cosines, relevant[start:], exclude[start:], strict=False):
            if items.item.size:
                row[left_out.item] = -np.inf
                yield _ranks_of_query(row, items)


def _ranks_of_query(row: np.ndarray, items: _Items) -> tuple[np.ndarray, _Items]:
    found = row[items.item]
    order = np.lexsort((items.gain, -found))
    found = found[order] - TIE["float64"]
    row[items.item] = -np.inf
    ahead = np.sort(row[row >= found[-1]])  # only these decide: the others are behind all relevant items
    others = len(ahead) - np.searchsorted(ahead, found)
    return others + np.arange(1, len(found) + 1), _Items(items.item[order], items.gain[order])


def _scores(ranks: np.ndarray, gain: np.ndarray, cutoffs: list[int]) -> dict[str, float]:
    scores = {"mrr": 1.0 / ranks[0]}
    best, discount = -np.sort(-gain), 1.0 / np.log2(1.0 + ranks)
    ideal = 1.0 / np.log2(2.0 + np.arange(len(gain)))
    for k in cutoffs:
        found = ranks <= k
        scores[f"hit_rate@{k}"] = float(found[0])
        scores[f"recall@{k}"] = float(found.mean())
        scores[f"ndcg@{k}"] = float(gain[found] @ discount[found] / (best[:k] @ ideal[:k]))
    return scores


def _embeddings(name: str, embeddings: ArrayLike) -> np.ndarray:
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"`{name}` must be embeddings (N, D), at least one. Received: shape={embeddings.shape}. Pass what "
            "`predict` or OnnxEncoder.encode returns."
        )
    check_finite(name, embeddings)
    return embeddings


def _gains(name: str, items: Relevant, queries: int, corpus: int) -> list[_Items]:
    """The items of each query; raises ValueError for what they may not be."""
    if len(items) != queries:
        raise ValueError(
            f"`{name}` must have one entry for each query. Received: {len(items)} entries for {queries} queries. Give "
            "a query without items an empty list."
        )
    parsed = [_entry(entry) for entry in items]
    index = np.concatenate([entry.item for entry in parsed])
    gain = np.concatenate([entry.gain for entry in parsed])
    outside = index[(index < 0) | (index >= corpus)]
    if index.dtype.kind not in "iu" or outside.size:
        received = f"{outside[0]}, and {outside.size} such in all" if outside.size else f"dtype={index.dtype}"
        raise ValueError(
            f"`{name}` must hold integer indices of the corpus, 0 to {corpus - 1}. Received: {received}. "
            "Look up the row of each item in `corpus`."
        )
    if not (np.isfinite(gain) & (gain >= 0)).all():
        raise ValueError(
            f"Gains in `{name}` must be finite numbers of at least 0. Received: {gain.min()} to {gain.max()}. Leave "
            "out what is not relevant."
        )
    return [_Items(entry.item[entry.gain > 0], entry.gain[entry.gain > 0]) for entry in parsed]


def _entry(entry: Entry) -> _Items:
    if isinstance(entry, Mapping):
        return _Items(_indices(list(entry)), np.array([float(gain) for gain in entry.values()], "float64"))
    if isinstance(entry, (set, frozenset)):
        entry = list(entry)
    index = np.unique(_indices(entry))
    return _Items(index, np.ones(len(index)))


def _indices(entry: Entry) -> np.ndarray:
    index = np.asarray(entry).reshape(-1)
    return index if index.size else np.zeros(0, "int64")


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1 on; tied values share the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
