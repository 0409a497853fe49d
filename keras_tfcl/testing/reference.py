"""InfoNCE by double loops in float64: slow, plain, and independent of the rest of the library.

Every value and every gradient of the fast code is compared with this file. It imports NumPy and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

POLE_SHIFT = 1e-6


class Reference(NamedTuple):
    """Losses of the anchors, `(B,)` or `(B, V)`; which of them have one; the gradient of their weighted mean."""

    losses: np.ndarray
    valid: np.ndarray
    gradient: np.ndarray


def contrastive_loss(
    labels: np.ndarray,
    embeddings: np.ndarray,
    *,
    temperature: float | None = None,
    arctanh_scale: float | None = None,
    alpha: float | None = None,
    top_k: int | None = None,
    decoupled: bool = False,
    cross_view_only: bool = False,
    weights: np.ndarray | None = None,
) -> Reference:
    """The loss of every anchor, and the gradient of `sum(weights * losses) / number of anchors with a positive`.

    Args:
        labels: integers `(B,)`.
        embeddings: floats `(B, D)` or `(B, V, D)`, taken to float64.
        temperature: logits are cosine / temperature; or
        arctanh_scale: logits are scale/2 * log((1 + s + 1e-6) / (1 - s + 1e-6)).
        alpha: keep the hardest ceil(alpha * n) of each anchor's n negatives, with ties; or
        top_k: keep the hardest top_k.
        decoupled: no positives in the denominator.
        cross_view_only: compare different views only.
        weights: one for each anchor, of the shape of the losses. Defaults to ones.
    """
    geometry = Geometry(labels, embeddings, cross_view_only)
    s = geometry.cosines
    losses, valid, d_logits = np.zeros(len(s)), np.zeros(len(s), bool), np.zeros_like(s)
    for i, positives, negatives in geometry.anchors():
        negatives = hardest(negatives, s[i], alpha, top_k)
        compared = negatives if decoupled else positives + negatives
        if not positives or not compared:
            continue
        valid[i] = True
        logits = {j: _logit(s[i, j], temperature, arctanh_scale) for j in positives + negatives}
        top = max(logits[j] for j in compared)
        log_sum = top + math.log(sum(math.exp(logits[j] - top) for j in compared))
        losses[i] = sum(log_sum - logits[p] for p in positives) / len(positives)
        for j in compared:
            d_logits[i, j] += math.exp(logits[j] - log_sum)
        for p in positives:
            d_logits[i, p] -= 1 / len(positives)

    derivatives = [[_derivative(c, temperature, arctanh_scale) for c in row] for row in s]
    return geometry.finish(losses, valid, d_logits * derivatives, weights)


class Geometry:
    """Cosines and positives of a batch, and gradients of embeddings from derivatives with respect to the cosines.

    Args:
        labels: integers `(B,)`.
        embeddings: floats `(B, D)` or `(B, V, D)`, taken to float64.
        cross_view_only: compare different views only.
    """

    def __init__(self, labels: np.ndarray, embeddings: np.ndarray, cross_view_only: bool = False) -> None:
        embeddings = np.asarray(embeddings, "float64")
        self.shape = embeddings.shape
        self.views = self.shape[1] if len(self.shape) == 3 else 1
        self.cross_view_only = cross_view_only
        x = embeddings.reshape(-1, self.shape[-1])  # (A, D), sample by sample
        self.labels = [labels[i // self.views] for i in range(len(x))]
        self.lengths = [math.sqrt(float(row @ row)) for row in x]
        self.units = [row / (length if length > 0 else 1.0) for row, length in zip(x, self.lengths, strict=True)]
        self.cosines = np.array([[float(a @ b) for b in self.units] for a in self.units])

    def anchors(self) -> Iterator[tuple[int, list[int], list[int]]]:
        """Each anchor with its positives and its negatives."""
        # Two embeddings are not compared if their numbers differ by a multiple of `apart`.
        apart = self.views if self.cross_view_only else len(self.labels)
        for i, own in enumerate(self.labels):
            others = [j for j in range(len(self.labels)) if (i - j) % apart]
            yield i, [j for j in others if self.labels[j] == own], [j for j in others if self.labels[j] != own]

    def finish(
        self, losses: np.ndarray, valid: np.ndarray, d_cosines: np.ndarray, weights: ArrayLike | None = None
    ) -> Reference:
        """The reference from the loss of each anchor and its derivatives with respect to the cosines, `(A, A)`."""
        w = np.ones(len(losses)) if weights is None else np.asarray(weights, "float64").reshape(-1)
        u, d_u = self.units, np.zeros((len(losses), self.shape[-1]))
        for i in range(len(u)):
            for j in range(len(u)):
                d_s = w[i] / max(valid.sum(), 1) * d_cosines[i, j]
                d_u[i] += d_s * u[j]
                d_u[j] += d_s * u[i]
        gradient = [
            (g - direction * (direction @ g)) / length if length > 0 else g
            for g, direction, length in zip(d_u, u, self.lengths, strict=True)
        ]
        shape = self.shape[:-1]
        return Reference(losses.reshape(shape), valid.reshape(shape), np.reshape(gradient, self.shape))


def _logit(s: float, temperature: float | None, arctanh_scale: float | None) -> float:
    if temperature is not None:
        return s / temperature
    s = min(max(s, -1.0), 1.0)
    return arctanh_scale / 2 * math.log((1 + s + POLE_SHIFT) / (1 - s + POLE_SHIFT))  # type: ignore[operator]  # one of the two is given


def _derivative(s: float, temperature: float | None, arctanh_scale: float | None) -> float:
    if temperature is not None:
        return 1 / temperature
    s = min(max(s, -1.0), 1.0)
    return arctanh_scale / 2 * (1 / (1 + s + POLE_SHIFT) + 1 / (1 - s + POLE_SHIFT))  # type: ignore[operator]  # one of the two is given


def hardest(negatives: list[int], s: np.ndarray, alpha: float | None, top_k: int | None) -> list[int]:
    """The negatives whose cosine is at least the k-th largest."""
    if not negatives or (alpha is None and top_k is None):
        return negatives
    k = math.ceil(alpha * len(negatives) - 1e-9) if top_k is None else min(top_k, len(negatives))  # type: ignore[operator]  # one of the two is given
    kth = sorted((s[j] for j in negatives), reverse=True)[k - 1]
    return [j for j in negatives if s[j] >= kth - 1e-12]
