"""The functional form of the contrastive losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from keras import ops

from keras_tfcl.ops.block_size import check_block_size, choose_block
from keras_tfcl.ops.candidates import Candidates, constant_log_probability
from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.info_nce import ChoosesNegatives, statistics
from keras_tfcl.ops.masks import as_labels
from keras_tfcl.ops.pairwise import check_precision
from keras_tfcl.typing import Tensor, TensorLike


@tf.autograph.experimental.do_not_convert  # there is nothing to convert, and reading the sources takes seconds
def contrastive_loss(
    anchors: TensorLike,
    candidates: TensorLike | None = None,
    anchor_labels: TensorLike | None = None,
    candidate_labels: TensorLike | None = None,
    *,
    scaling: float | str | Callable[[Tensor], Tensor] = 0.1,
    negatives: str | ChoosesNegatives = "all",
    decoupled: bool = False,
    self_index: TensorLike | None = None,
    anchor_views: TensorLike | None = None,
    candidate_views: TensorLike | None = None,
    candidate_mask: TensorLike | None = None,
    candidate_log_probability: TensorLike | None = None,
    block_size: str | int = "auto",
    precision: str | None = None,
) -> Tensor:
    """Computes the general InfoNCE loss of each anchor against a set of candidates, for your own training loops.

    Formula, with logits `l_ij` of the cosines, P the positives of anchor i (equal labels, not the same embedding) and N
    its chosen negatives:

        loss_i = -mean over p in P of  log( exp(l_ip) / (sum over P and N of exp(l_ij)) )

    The mean is outside the logarithm (SupCon); with one positive it is NT-Xent. `decoupled=True` leaves the positives
    out of the sum. An anchor without a positive (or, if decoupled, without a negative) has zero loss and no gradient.

    Few embeddings are compared all at once, in float64; many in tiles of the similarity matrix, in float32 (float64
    for float64 embeddings), with memory for a few tiles only and the same result up to rounding.

    Args:
        anchors: embeddings `(A, D)`, any float dtype, need not be normalised.
        candidates: embeddings `(C, D)`. Defaults to the anchors themselves, self-pairs excluded.
        anchor_labels: integer `(A,)`: who is whose positive.
        candidate_labels: integer `(C,)`; needed exactly when `candidates` is given.
        scaling: a temperature (a number, or a scalar tensor that gets its gradient), `"arctanh"`, or any elementwise
            function of the cosines such as a `keras_tfcl.Scaling`.
        negatives: `"all"` or a `keras_tfcl.Negatives`.
        decoupled: whether to leave the positives out of the denominator (Yeh et al. 2022, arXiv 2110.06848).
        self_index: integer `(A,)`, the index of each anchor among the candidates (-1: it is not one of them), so that
            it is not compared with itself. Only with `candidates`; without them it is known.
        anchor_views: integer `(A,)`: if given, only pairs of different views are compared.
        candidate_views: integer `(C,)`, needed beside `anchor_views` where there are `candidates`.
        candidate_mask: bool `(C,)`: the valid mask: only candidates where it is True are compared. Only with
            `candidates`.
        candidate_log_probability: float `(C,)`: the logarithm of the probability that a candidate is in a batch,
            subtracted from its logits, so that popular candidates are not repelled for being drawn often (log Q
            correction; Yi et al. 2019, RecSys). It is constant for the gradient. Goes with `candidates`; not for
            negatives that weigh.
        block_size: edge of the tiles; `"dense"` for no tiles; or `"auto"`, the default, which decides by A and C.
            A function that is differentiated by tensors or variables that it reads is always dense, unless it is a
            `keras_tfcl.Scaling` that holds them as Keras variables.
        precision: of the tiles' matrix products: None, `"highest"` or `"input"`, as in `keras_tfcl.ContrastiveLoss`.

    Returns:
        `(A,)`, float64 if dense, differentiable in anchors and candidates.

    Raises:
        ValueError: for labels that are not integers, labels, indices, views or masks whose length differs from the
            embeddings, arguments that need `candidates` without them, and unknown choices of negatives.

    Example, in which the first two embeddings are positives of each other and the third has none:

    >>> z = np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]], "float32")
    >>> contrastive_loss(z, anchor_labels=[0, 0, 1], scaling=0.5).numpy().round(4)
    array([0.0183, 0.0185, 0.    ])

    References: van den Oord et al. 2018, arXiv 1807.03748; Khosla et al. 2020 (SupCon), arXiv 2004.11362.
    """
    if anchor_labels is None or (candidates is None) != (candidate_labels is None):
        raise ValueError(
            "`contrastive_loss` needs `anchor_labels`, and `candidate_labels` exactly when `candidates` is given. "
            f"Received: anchor_labels={_given(anchor_labels)}, candidates={_given(candidates)}, "
            f"candidate_labels={_given(candidate_labels)}. Pass an integer label for each embedding."
        )
    alone = candidates is None
    if alone:
        _check_alone(self_index=self_index, candidate_views=candidate_views, candidate_mask=candidate_mask)
        _check_alone(candidate_log_probability=candidate_log_probability)
    else:
        _check_views(anchor_views, candidate_views)
    _check_negatives(negatives)
    anchors, anchor_labels = ops.convert_to_tensor(anchors), as_labels(anchor_labels, "anchor_labels")
    candidates = anchors if alone else ops.convert_to_tensor(candidates)
    candidate_labels = anchor_labels if alone else as_labels(candidate_labels, "candidate_labels")
    _check_shapes("anchors", anchors, anchor_labels=anchor_labels, self_index=self_index, anchor_views=anchor_views)
    of_candidates = {
        "candidate_views": candidate_views,
        "candidate_mask": candidate_mask,
        "candidate_log_probability": candidate_log_probability,
    }
    _check_shapes("candidates", candidates, candidate_labels=candidate_labels, **of_candidates)
    if alone:
        comparison = Comparison(anchors, anchor_labels, view=_integers(anchor_views))
    else:
        views = _integers(candidate_views)
        valid = None if candidate_mask is None else ops.convert_to_tensor(candidate_mask, "bool")
        others = Candidates(
            candidates,
            candidate_labels,
            _integers(self_index),
            views,
            valid,
            log_probability=constant_log_probability(candidate_log_probability),
        )
        comparison = Comparison(anchors, anchor_labels, view=_integers(anchor_views), candidates=others)
    block = choose_block(check_block_size(block_size), *comparison.size, comparison.symmetric)
    made = statistics(
        comparison,
        scaling=scaling,
        negatives=negatives,
        decoupled=decoupled,
        block=block,
        precision=check_precision(precision),
    )
    losses = made.losses(decoupled).loss
    return comparison.nan_unless_finite(losses)


def _integers(values: TensorLike | None) -> Tensor | None:
    return None if values is None else ops.cast(values, "int32")


def _check_alone(**of_candidates: object) -> None:
    given = [name for name, value in of_candidates.items() if value is not None]
    if given:
        raise ValueError(
            "Without `candidates` every anchor is compared with the other anchors, whose indices and views are known. "
            f"Received: {', '.join(given)}. Leave them out, or give `candidates` and `candidate_labels`."
        )


def _check_views(anchor_views: TensorLike | None, candidate_views: TensorLike | None) -> None:
    if (anchor_views is None) != (candidate_views is None):
        raise ValueError(
            "`anchor_views` and `candidate_views` are compared with one another: give both or none. Received: "
            f"anchor_views={_given(anchor_views)}, candidate_views={_given(candidate_views)}."
        )


def _check_negatives(negatives: object) -> None:
    if not (hasattr(negatives, "log_sum") or (isinstance(negatives, str) and negatives == "all")):
        raise ValueError(
            "`negatives` must be 'all' or a keras_tfcl.Negatives such as HardNegatives(alpha=0.1). "
            f"Received: negatives={negatives!r}."
        )


def _check_shapes(whose: str, embeddings: Tensor, **values: TensorLike | None) -> None:
    rows = embeddings.shape[0]
    for name, shape in ((name, np.shape(value)) for name, value in values.items() if value is not None):
        if len(shape) != 1 or (None not in (rows, shape[0]) and rows != shape[0]):
            raise ValueError(
                f"`{name}` must have shape ({rows},), one entry for each of the {whose}. Received: {tuple(shape)}. "
                "Pass labels, indices, views and masks in the order of the embeddings."
            )


def _given(value: object) -> str:
    return "not given" if value is None else "given"
