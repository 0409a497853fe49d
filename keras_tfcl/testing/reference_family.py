"""The rest of the family by double loops in float64: reweighted and debiased, simple, sigmoid, weighted decoupled.

Like `reference`, whose geometry it uses: NumPy and nothing else of the library. Logits must stay below 350.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from keras_tfcl.testing.reference import Geometry, Reference, hardest


def reweighted_loss(
    labels: np.ndarray,
    embeddings: np.ndarray,
    *,
    temperature: float,
    beta: float = 0.0,
    tau_plus: float = 0.0,
    detach: bool = False,
    cross_view_only: bool = False,
    weights: ArrayLike | None = None,
) -> Reference:
    """HCL (Robinson et al. 2021) and Debiased (Chuang et al. 2020, beta = 0), with the mean over positives outside.

    loss_i = log(sum_p e_p + N) - mean_p(l_p), e = exp(l), l = s / temperature, imp = exp(beta l), and over M negatives
    N = max((M sum(imp e) / sum(imp) - tau_plus M mean_p(e_p)) / (1 - tau_plus), M exp(-1 / temperature)).
    """
    geometry = Geometry(labels, embeddings, cross_view_only)
    logits = geometry.cosines / temperature
    losses, valid, d_logits = np.zeros(len(logits)), np.zeros(len(logits), bool), np.zeros_like(logits)
    for i, positives, negatives in geometry.anchors():
        if not positives:
            continue
        valid[i] = True
        e = {j: math.exp(logits[i, j]) for j in positives + negatives}
        total, d_total = 0.0, dict.fromkeys(e, 0.0)
        if negatives:
            total, d_total = _corrected(e, positives, negatives, beta, tau_plus, detach, math.exp(-1 / temperature))
        denominator = sum(e[p] for p in positives) + total
        losses[i] = math.log(denominator) - sum(logits[i, p] for p in positives) / len(positives)
        for j in e:
            d_logits[i, j] = d_total[j] / denominator
        for p in positives:
            d_logits[i, p] += e[p] / denominator - 1 / len(positives)
    return geometry.finish(losses, valid, d_logits / temperature, weights)


def simple_loss(
    labels: np.ndarray,
    embeddings: np.ndarray,
    *,
    weight: float | None = None,
    alpha: float | None = None,
    top_k: int | None = None,
    cross_view_only: bool = False,
    weights: ArrayLike | None = None,
) -> Reference:
    """Wang and Liu 2021, eq. 3: -mean_p(s_p) + weight sum_j(s_j); weight defaults to 1 / negatives."""
    geometry = Geometry(labels, embeddings, cross_view_only)
    s = geometry.cosines
    losses, valid, d_cosines = np.zeros(len(s)), np.zeros(len(s), bool), np.zeros_like(s)
    for i, positives, negatives in geometry.anchors():
        if not positives:
            continue
        valid[i] = True
        negatives = hardest(negatives, s[i], alpha, top_k)
        for p in positives:
            d_cosines[i, p] = -1 / len(positives)
        for j in negatives:
            d_cosines[i, j] = 1 / len(negatives) if weight is None else weight
        losses[i] = sum(d_cosines[i, j] * s[i, j] for j in positives + negatives)
    return geometry.finish(losses, valid, d_cosines, weights)


def sigmoid_loss(
    labels: np.ndarray,
    embeddings: np.ndarray,
    *,
    scale: float,
    bias: float,
    cross_view_only: bool = False,
    weights: ArrayLike | None = None,
) -> Reference:
    """SigLIP (Zhai et al. 2023): -sum_j log sigmoid(z_j (scale s_j + bias)), z = 1 for positives, -1 for negatives."""
    geometry = Geometry(labels, embeddings, cross_view_only)
    s = geometry.cosines
    losses, valid, d_cosines = np.zeros(len(s)), np.zeros(len(s), bool), np.zeros_like(s)
    for i, positives, negatives in geometry.anchors():
        if not positives:
            continue
        valid[i] = True
        for sign, those in ((1.0, positives), (-1.0, negatives)):
            for j in those:
                probability = 1 / (1 + math.exp(-sign * (scale * s[i, j] + bias)))
                losses[i] -= math.log(probability)
                d_cosines[i, j] = -sign * scale * (1 - probability)
    return geometry.finish(losses, valid, d_cosines, weights)


def weighted_decoupled_loss(
    labels: np.ndarray, embeddings: np.ndarray, *, temperature: float, sigma: float, weights: ArrayLike | None = None
) -> Reference:
    """DCLW (Yeh et al. 2022), its weights held constant in the gradient: -w s+ / t + log sum_j exp(s_j / t).

    s+ is the mean cosine of the positives, w_i = 2 - exp(s+_i / sigma) / mean(exp(s+ / sigma)).
    """
    geometry = Geometry(labels, embeddings)
    s = geometry.cosines
    losses, valid, d_cosines = np.zeros(len(s)), np.zeros(len(s), bool), np.zeros_like(s)
    rows = [row for row in geometry.anchors() if row[1] and row[2]]
    means = {i: sum(s[i, p] for p in positives) / len(positives) for i, positives, _ in rows}
    average = sum(math.exp(m / sigma) for m in means.values()) / max(len(means), 1)
    for i, positives, negatives in rows:
        valid[i] = True
        w = 2 - math.exp(means[i] / sigma) / average
        total = sum(math.exp(s[i, j] / temperature) for j in negatives)
        losses[i] = -w * means[i] / temperature + math.log(total)
        for p in positives:
            d_cosines[i, p] = -w / len(positives) / temperature
        for j in negatives:
            d_cosines[i, j] = math.exp(s[i, j] / temperature) / total / temperature
    return geometry.finish(losses, valid, d_cosines, weights)


def _corrected(
    e: dict[int, float],
    positives: list[int],
    negatives: list[int],
    beta: float,
    tau_plus: float,
    detach: bool,
    lowest: float,
) -> tuple[float, dict[int, float]]:
    """N of `reweighted_loss`, and its derivatives with respect to the logits."""
    m = len(negatives)
    imp = {j: e[j] ** beta for j in negatives}
    upper, lower = sum(imp[j] * e[j] for j in negatives), sum(imp.values())
    mean_positive = sum(e[p] for p in positives) / len(positives)
    total = (m * upper / lower - tau_plus * m * mean_positive) / (1 - tau_plus)
    d_logits = dict.fromkeys(e, 0.0)
    if total <= m * lowest:
        return m * lowest, d_logits
    for j in negatives:
        moved = imp[j] * e[j] * (1 if detach else 1 + beta) / lower
        if not detach:
            moved -= beta * imp[j] * upper / lower**2
        d_logits[j] = m * moved / (1 - tau_plus)
    for p in positives:
        d_logits[p] = -tau_plus * m * e[p] / len(positives) / (1 - tau_plus)
    return total, d_logits
