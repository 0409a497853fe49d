"""Measures how many neighbours a quantized model shares with its float model.

The cosine between an embedding and its quantized form says little: 0.9998 was measured where a fifth of the ten nearest
neighbours differed. The neighbours themselves are therefore compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_tfcl.export.runtime.parity import cosines, unit_rows

DEPTHS = (1, 10, 100)
_BLOCK = 512  # rows whose similarities to all others are held at once


@dataclass(frozen=True)
class Recall:
    """The agreement of two encoders on the similarities among the same samples.

    Attributes:
        rows: number of samples, each of which is compared with all others.
        overlap: for k = 1, 10, 100, the mean share of the k nearest neighbours, by cosine, that are the same. Only for
            k with at least 2k other samples, because chance alone gives k / (rows - 1).
        mean_cosine: mean over the samples of the cosine between their two embeddings.
        min_cosine: the least of these cosines.
    """

    rows: int
    overlap: dict[int, float]
    mean_cosine: float
    min_cosine: float


def compare_neighbours(reference: np.ndarray, other: np.ndarray) -> Recall:
    """Compare two `(N, D)` arrays of embeddings of the same N >= 3 rows. Ties are broken by row number.

    >>> rows = np.random.default_rng(0).normal(size=(50, 8))
    >>> compare_neighbours(rows, 2 * rows).overlap
    {1: 1.0, 10: 1.0}
    """
    expected, received = unit_rows(reference), unit_rows(other)
    depths = [k for k in DEPTHS if 2 * k <= len(expected) - 1]
    shares: dict[int, list[float]] = {k: [] for k in depths}
    for start in range(0, len(expected), _BLOCK):
        tables = [_similarities(rows, start) for rows in (expected, received)]  # each (n, N - 1)
        orders = [np.argsort(-table, axis=1, kind="stable") for table in tables]
        for k in depths:
            shares[k] += [len(np.intersect1d(a[:k], b[:k])) / k for a, b in zip(*orders, strict=True)]
    between = cosines(reference, other)
    return Recall(
        rows=len(expected),
        overlap={k: float(np.mean(values)) for k, values in shares.items()},
        mean_cosine=float(between.mean()),
        min_cosine=float(between.min()),
    )


def _similarities(rows: np.ndarray, start: int) -> np.ndarray:
    """Cosines of a block of rows with all rows but themselves, `(n, N - 1)`."""
    block = rows[start : start + _BLOCK]
    others = ~np.eye(len(block), len(rows), start, dtype=bool)  # (n, N)
    return (block @ rows.T)[others].reshape(len(block), len(rows) - 1)
