"""One tile: the pairs of a block of rows and a block of columns, what they add to the sums, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_tfcl.ops.tiled.runs import Side
from keras_tfcl.ops.tiled.sums import FixedShift, Online


class Term(NamedTuple):
    """One sum over an anchor's negatives, of `exp(power * logit)`; `slope / power` of its gradient is kept."""

    power: float
    slope: float


class Kernel(NamedTuple):
    """What the tiles compute: for each row a log-sum for each term, the log-sum and the sum of its positives' logits.

    Positives handled outside the tiles (`Side.partners`) are left out.
    """

    sums: FixedShift | Online
    terms: tuple[Term, ...]


class Sums(NamedTuple):
    """Results of rows: `logs` `(K + 1, B)`, of the terms and the positives; `logits` `(B,)`, summed over positives."""

    logs: Any
    logits: Any


def as_rows(block: Any) -> Any:
    """Vectors of a block, to be compared with columns: `(B,)` to `(B, 1)`, `(B, P)` to `(B, 1, P)`."""
    return _each(lambda x: x[:, None], block)


def as_columns(block: Any) -> Any:
    return _each(lambda x: x[None], block)


def tile_sums(kernel: Kernel, product: Any, mine: Side, other: Side, axis: int, mixed: bool) -> Sums:
    """What a tile adds to the sums of `mine`, which lie along its rows (axis 1 is summed) or columns (axis 0).

    Args:
        kernel: what to compute.
        product: `(B, B)`, products of rows.
        mine, other: sides as rows and columns, or as columns and rows.
        axis: of `other`.
        mixed: whether the tile holds anything but negatives.
    """
    positive, negative = _masks(product, mine, other, mixed)
    sums = kernel.sums
    logs = [sums.reduce(sums.values(product, term.power), negative, axis) for term in kernel.terms]
    if not mixed:
        return Sums(tf.stack([*logs, tf.fill(tf.shape(logs[0]), tf.cast(sums.empty, product.dtype))]), 0.0 * logs[0])
    logs.append(sums.reduce(sums.values(product, 1.0), positive, axis))
    return Sums(tf.stack(logs), tf.reduce_sum(tf.where(positive, sums.form.logit(product), 0.0), axis))


def tile_gradient(
    kernel: Kernel, product: Any, mine: Side, other: Side, results: Sums, cotangents: Sums, mixed: bool
) -> Any:
    """Gradient `(B, B)`, in the products, of the results of `mine`, given those and their cotangents."""
    positive, negative = _masks(product, mine, other, mixed)
    sums = kernel.sums
    total = tf.zeros_like(product)
    for k, term in enumerate(kernel.terms):
        if term.slope == 0:
            continue
        kept = cotangents.logs[k] * (term.slope / term.power)
        part = sums.share(sums.slopes(product, term.power), results.logs[k], kept, term.power)
        total += part if negative is None else tf.where(negative, part, 0.0)
    if mixed:
        part = sums.share(sums.slopes(product, 1.0), results.logs[-1], cotangents.logs[-1], 1.0)
        part += sums.form.logit_slope(product) * cotangents.logits
        total += tf.where(positive, part, 0.0)
    return total


def _masks(product: Any, mine: Side, other: Side, mixed: bool) -> tuple[Any, Any]:
    """Positives and negatives of a tile; None stands for all of it."""
    hard = None if mine.threshold is None else product >= mine.threshold
    if not mixed:
        return None, hard
    compared = mine.exists & other.exists & (other.position != mine.own)
    if mine.view is not None:
        compared &= mine.view != other.view
    same = (mine.first <= other.position) & (other.position < mine.last)
    positive, negative = compared & same, compared & ~same
    for partner in tf.unstack(mine.partners, axis=-1):
        positive &= other.position != partner
    return positive, negative if hard is None else negative & hard


def _each(function: Callable[[Any], Any], block: Any) -> Any:
    return type(block)(*(None if x is None else function(x) for x in block))
