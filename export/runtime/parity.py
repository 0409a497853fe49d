"""The tolerance for the embeddings of a file, and their difference to those of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

RELATIVE_TOLERANCE = 1e-4
MIN_COSINE = 0.99999


@dataclass(frozen=True)
class Parity:
    """The difference between two sets of embeddings of the same rows.

    Attributes:
        max_abs_diff: largest absolute difference of one number.
        scale: largest absolute number of the reference.
        min_cosine: smallest cosine between a row and its reference.
        rows: how many rows were compared.
    """

    max_abs_diff: float
    scale: float
    min_cosine: float
    rows: int

    @property
    def passed(self) -> bool:
        """`max_abs_diff <= 1e-4 * scale` and `min_cosine >= 0.99999`.

        The tolerance follows the scale: an absolute one passes garbage for an encoder with outputs of 1e-5 and fails a
        good one with outputs of 1e3. The cosine catches small rows among large ones.
        """
        return self.max_abs_diff <= RELATIVE_TOLERANCE * self.scale and self.min_cosine >= MIN_COSINE

    @property
    def relative_diff(self) -> float:
        """`max_abs_diff / scale`; 0 for two sets of zeros."""
        if self.scale:
            return self.max_abs_diff / self.scale
        return float("inf") if self.max_abs_diff else 0.0

    @classmethod
    def worst(cls, parities: Sequence[Parity]) -> Parity:
        """Return the largest difference relative to its scale, and the lowest cosine, of several comparisons."""
        farthest = max(parities, key=lambda parity: parity.relative_diff)
        lowest = min(parity.min_cosine for parity in parities)
        return cls(farthest.max_abs_diff, farthest.scale, lowest, sum(parity.rows for parity in parities))

    def to_dict(self) -> dict[str, object]:
        return asdict(self) | {"passed": self.passed}

    def __str__(self) -> str:
        return (
            f"max difference {self.max_abs_diff:.1e} at scale {self.scale:.1e}, min cosine {self.min_cosine:.7f}, "
            f"{self.rows} rows"
        )


def compare(reference: np.ndarray, embeddings: np.ndarray) -> Parity:
    """Compare two finite `(N, D)` arrays, N at least 1."""
    expected, received = reference.astype(np.float64), embeddings.astype(np.float64)
    return Parity(
        max_abs_diff=float(np.abs(expected - received).max()),
        scale=float(np.abs(expected).max()),
        min_cosine=float(cosines(expected, received).min()),
        rows=len(expected),
    )


def cosines(reference: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Return the cosine of each row to its reference, `(N,)`; 1 for two rows of zeros, which agree."""
    products = (unit_rows(reference) * unit_rows(embeddings)).sum(axis=1)
    return np.where(reference.any(axis=1) | embeddings.any(axis=1), products, 1)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return float64 rows of length 1; rows of zeros stay zeros."""
    rows = rows.astype(np.float64)
    peak = np.abs(rows).max(axis=1, keepdims=True)
    scaled = np.divide(rows, peak, out=np.zeros_like(rows), where=peak > 0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.divide(scaled, length, out=np.zeros_like(rows), where=length > 0)
