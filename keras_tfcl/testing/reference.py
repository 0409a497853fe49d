"""InfoNCE by double loops in float64: slow, plain, and independent of the rest of the library.

Every value and every gradient of the fast code is compared with this file. It imports NumPy and nothing else.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

POLE_SHIFT = 1e-6


class Reference(NamedTuple):
    """Losses of the anchors, `(B,)` or `(B, V)`; which of them have one; the gradient of their weighted mean."""

    losses: np.ndarray
    valid: np.ndarray
    gradient: np.ndarray


def contrastive_loss(
    ids: np.ndarray,
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
        ids: integers `(B,)`.
        embeddings: floats `(B, D)` or `(B, V, D)`, taken to float64.
        temperature: logits are cosine / temperature; or
        arctanh_scale: logits are scale/2 * log((1 + s + 1e-6) / (1 - s + 1e-6)).
        alpha: keep the hardest ceil(alpha * n) of each anchor's n negatives, with ties; or
        top_k: keep the hardest top_k.
        decoupled: no positives in the denominator.
        cross_view_only: compare different views only.
        weights: one for each anchor, of the shape of the losses. Defaults to ones.
    """
    embeddings = np.asarray(embeddings, "float64")
    shape = embeddings.shape[:-1]
    views = shape[1] if len(shape) == 2 else 1
    x = embeddings.reshape(-1, embeddings.shape[-1])  # (A, D), instance by instance
    lengths = [math.sqrt(float(row @ row)) for row in x]
    u = [row / (length if length > 0 else 1.0) for row, length in zip(x, lengths, strict=True)]
    anchor_ids = [ids[i // views] for i in range(len(x))]
    w = np.ones(len(x)) if weights is None else np.asarray(weights, "float64").reshape(-1)

    losses, valid, d_logits = np.zeros(len(x)), np.zeros(len(x), bool), np.zeros((len(x), len(x)))
    s = np.array([[float(a @ b) for b in u] for a in u])
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and not (cross_view_only and j % views == i % views)]
        positives = [j for j in others if anchor_ids[j] == anchor_ids[i]]
        negatives = _hardest([j for j in others if anchor_ids[j] != anchor_ids[i]], s[i], alpha, top_k)
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

    d_u = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            d_s = w[i] / max(valid.sum(), 1) * d_logits[i, j] * _slope(s[i, j], temperature, arctanh_scale)
            d_u[i] += d_s * u[j]
            d_u[j] += d_s * u[i]
    gradient = np.array([
        g - direction * (direction @ g) if length > 0 else g
        for g, direction, length in zip(d_u, u, lengths, strict=True)
    ]) / np.array([length if length > 0 else 1.0 for length in lengths])[:, None]  # fmt: skip
    return Reference((losses).reshape(shape), valid.reshape(shape), gradient.reshape(embeddings.shape))


def _logit(s: float, temperature: float | None, arctanh_scale: float | None) -> float:
    if temperature is not None:
        return s / temperature
    s = min(max(s, -1.0), 1.0)
    return arctanh_scale / 2 * math.log((1 + s + POLE_SHIFT) / (1 - s + POLE_SHIFT))


def _slope(s: float, temperature: float | None, arctanh_scale: float | None) -> float:
    if temperature is not None:
        return 1 / temperature
    s = min(max(s, -1.0), 1.0)
    return arctanh_scale / 2 * (1 / (1 + s + POLE_SHIFT) + 1 / (1 - s + POLE_SHIFT))


def _hardest(negatives: list[int], s: np.ndarray, alpha: float | None, top_k: int | None) -> list[int]:
    if not negatives or (alpha is None and top_k is None):
        return negatives
    k = math.ceil(alpha * len(negatives)) if top_k is None else min(top_k, len(negatives))
    kth = sorted((s[j] for j in negatives), reverse=True)[k - 1]
    return [j for j in negatives if s[j] >= kth - 1e-12]
