from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl import negatives as negatives_module
from keras_tfcl import scaling as scaling_module
from keras_tfcl.losses.reduction import reduce_losses
from keras_tfcl.ops import tiled
from keras_tfcl.ops.block_size import check_block_size, choose_block
from keras_tfcl.ops.info_nce import AnchorLosses, info_nce
from keras_tfcl.ops.masks import as_ids, pair_masks


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ContrastiveLoss(keras.losses.Loss):
    """InfoNCE in its general form: any scaling of the cosine, any choice of negatives, positives by id.

    Formula, for each anchor i with logits `l_ij` of the cosines, positives P and chosen negatives N:

        loss_i = -mean over p in P of  log( exp(l_ip) / (sum over P and N of exp(l_ij)) )

    **Who is positive.** Two embeddings are a positive pair when their ids are equal and they are not the same
    embedding; all other pairs are negatives. `y_true` = row numbers with several views: SimCLR. `y_true` = class
    labels: SupCon. Anchors without a positive give 0 loss and 0 gradient and leave the mean; if no anchor of a batch
    has a positive the loss is 0 (outside `tf.function` that earns one warning).

    **Numerics.** Small batches are computed in float64, large ones in tiles in float32 (float64 for float64
    embeddings); both agree to float32 rounding. Embeddings need not be normalised; the gradient has their dtype. A zero
    vector has cosine 0 with everything. NaN or Inf raises ValueError outside `tf.function` and makes the loss NaN
    inside.

    It is not a classification loss: `y_pred` holds embeddings, not class scores. Extra memory is a few times the
    embeddings and a few tiles of `4 * block_size^2` bytes or, if dense, a few times `8 * (B * V)^2` bytes. Keras masks
    on `y_pred` are not read: give padded rows `sample_weight` 0.

    Args:
        scaling: a temperature, `"arctanh"`, or a `keras_tfcl.Scaling`.
        negatives: `"all"`, or a `keras_tfcl.Negatives` such as `HardNegatives(alpha=0.1)`. Defaults to `"all"`.
        decoupled: leave the positives out of the denominator (Yeh et al. 2022, arXiv 2110.06848). Defaults to False.
        cross_view_only: compare only different views, as CLIP and bi-encoders do: needs `y_pred` of shape `(B, V, D)`
            with V >= 2; both directions count. Defaults to False: all are compared with all.
        block_size: edge of the tiles of the similarity matrix that are computed at a time; `"dense"` for all of it at
            once, in float64; or `"auto"`, the default: dense up to 256 embeddings (B * V), one tile up to 2048, tiles
            of 512 beyond, or where the batch size is not known. Smaller tiles save memory, larger ones time. A
            `Scaling` or `Negatives` of your own is always dense.
        reduction: `"sum_over_batch_size"` (the mean over anchors with a positive, the default), `"mean"` (the same),
            `"sum"`, `"mean_with_sample_weight"`, or `"none"` / None for the loss of every anchor.
        name: name of the loss.
        dtype: dtype of the result. Defaults to `keras.backend.floatx()`.

    Call arguments:
        y_true: integer ids `(B,)` or `(B, 1)`; kept as integers, so ids above 2^24 stay distinct.
        y_pred: float embeddings `(B, D)`, or `(B, V, D)` for V views of each instance.
        sample_weight: weight of each anchor, `(B,)` or `(B, V)`.

    Returns:
        A scalar, or for reduction None `(B,)` or `(B, V)`.

    Raises:
        ValueError: for arguments out of range, wrong shapes, ids that are no integers, non-finite embeddings.

    Example:

    >>> loss = keras_tfcl.ContrastiveLoss("arctanh", negatives=keras_tfcl.HardNegatives(alpha=0.5))
    >>> views = np.random.default_rng(0).normal(size=(8, 2, 16)).astype("float32")
    >>> float(loss(np.arange(8), views)) > 0
    True

    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> encoder.compile("adam", loss=loss)
    """

    def __init__(
        self,
        scaling: Any,
        negatives: Any = "all",
        decoupled: bool = False,
        cross_view_only: bool = False,
        block_size: str | int = "auto",
        reduction: str | None = "sum_over_batch_size",
        name: str = "contrastive_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.scaling = scaling_module.get(scaling)
        self.negatives = negatives_module.get(negatives)
        self.decoupled = decoupled
        self.cross_view_only = cross_view_only
        self.block_size = check_block_size(block_size)
        self._warned = False

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        # Keras' own __call__ would cast the ids to float: 2048 and 2049 are one number in float16.
        with keras.name_scope(self.name):
            losses, valid = self._anchor_losses(y_true, y_pred)
            return reduce_losses(losses, valid, sample_weight, self.reduction)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each anchor, `(B,)` or `(B, V)`, without reduction or weights."""
        return self._anchor_losses(y_true, y_pred).loss

    def _anchor_losses(self, y_true: Any, y_pred: Any) -> AnchorLosses:
        y_pred = ops.convert_to_tensor(y_pred)
        ids = as_ids(y_true)
        self._check(ids, y_pred)
        views = 1 if len(y_pred.shape) == 2 else y_pred.shape[1]
        count = None if y_pred.shape[0] is None else y_pred.shape[0] * views
        block = choose_block(self.block_size, count, count)
        forms = tiled.tile_forms(self.scaling, self.negatives)
        compare = self._dense if block is None or forms is None else partial(self._tiled, *forms, block)
        losses, valid = compare(ids, y_pred, views)
        self._warn_without_positives(valid)
        shape = ops.shape(y_pred)[:-1]
        return AnchorLosses(ops.cast(ops.reshape(losses, shape), self.dtype), ops.reshape(valid, shape))

    def _dense(self, ids: Any, y_pred: Any, views: int) -> AnchorLosses:
        anchors, view = _flat(y_pred, views)
        view = view if self.cross_view_only else None
        ids = ops.repeat(ids, views)
        position = ops.arange(ops.shape(anchors)[0], dtype="int32")
        pairs = pair_masks(ids, ids, self_index=position, anchor_views=view, candidate_views=view)
        return info_nce(
            anchors, anchors, pairs, scaling=self.scaling, negatives=self.negatives, decoupled=self.decoupled
        )

    def _tiled(self, form: Any, negatives: Any, block: int, ids: Any, y_pred: Any, views: int) -> AnchorLosses:
        choices = {"form": form, "negatives": negatives, "block": block, "decoupled": self.decoupled}
        if self.cross_view_only and views == 2:
            both = tiled.two_view_info_nce(y_pred[:, 0], y_pred[:, 1], ids, **choices)
            return AnchorLosses(*(ops.stack(pair, axis=1) for pair in zip(*both, strict=True)))
        anchors, view = _flat(y_pred, views)
        view = view if self.cross_view_only else None
        return tiled.self_info_nce(anchors, ops.repeat(ids, views), views=views, view=view, **choices)

    def _check(self, ids: Any, y_pred: Any) -> None:
        check_embeddings(y_pred)
        rows, count = y_pred.shape[0], ids.shape[0]
        if rows is not None and count is not None and rows != count:
            raise ValueError(
                "`y_true` must hold one id for each row of `y_pred`. Received: "
                f"{count} ids for y_pred of shape {tuple(y_pred.shape)}."
            )
        if self.cross_view_only and (len(y_pred.shape) == 2 or y_pred.shape[1] == 1):
            raise ValueError(
                "`cross_view_only=True` compares different views: `y_pred` must have shape (B, V, D) with V >= 2. "
                f"Received: shape={tuple(y_pred.shape)}. Stack the views on axis 1."
            )

    def _warn_without_positives(self, valid: Any) -> None:
        if self._warned or not tf.executing_eagerly() or bool(ops.any(valid)):
            return
        self._warned = True
        warnings.warn(
            f"{self.name}: no embedding of this batch has a positive, so its loss is 0 and teaches nothing. Give "
            "several views of each instance (y_pred of shape (B, V, D)), or ids that repeat within the batch.",
            stacklevel=4,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dtype": self.dtype,
            "scaling": keras.saving.serialize_keras_object(self.scaling),
            "negatives": keras.saving.serialize_keras_object(self.negatives),
            "decoupled": self.decoupled,
            "cross_view_only": self.cross_view_only,
            "block_size": self.block_size,
        }


def _flat(y_pred: Any, views: int) -> tuple[Any, Any]:
    """Embeddings `(B * V, D)`, instance by instance, and the number of each one's view."""
    anchors = ops.reshape(y_pred, (-1, y_pred.shape[-1]))
    return anchors, ops.arange(ops.shape(anchors)[0], dtype="int32") % views


def check_embeddings(y_pred: Any) -> None:
    """Raises ValueError unless `y_pred` is a float tensor `(B, D)` or `(B, V, D)`, finite where that can be seen."""
    dtype = keras.backend.standardize_dtype(y_pred.dtype)
    if "float" not in dtype:
        raise ValueError(
            f"`y_pred` must hold float embeddings. Received: dtype={dtype}. Are `y_true` and `y_pred` exchanged?"
        )
    if len(y_pred.shape) not in (2, 3):
        raise ValueError(
            "`y_pred` must hold embeddings of shape (B, D), or (B, V, D) for V views of each instance. Received: "
            f"shape={tuple(y_pred.shape)}. Pool or flatten the encoder's output to one vector an instance."
        )
    if None in tuple(y_pred.shape)[1:] or 0 in tuple(y_pred.shape):
        raise ValueError(
            "`y_pred` must have at least one row, view and feature, and a fixed number of views and features. "
            f"Received: shape={tuple(y_pred.shape)}."
        )
    if tf.executing_eagerly():
        check_finite(y_pred)


def check_finite(y_pred: Any) -> None:
    """Raises ValueError that names the first row with NaN or Inf. For eager tensors."""
    bad = ops.convert_to_numpy(ops.any(~ops.isfinite(y_pred), axis=tuple(range(1, len(y_pred.shape)))))
    if bad.any():
        raise ValueError(
            f"`y_pred` must be finite. Received: NaN or Inf in {int(bad.sum())} of {len(bad)} rows, the first is row "
            f"{int(bad.argmax())}. Look at that row's input, lower the learning rate, or clip the gradients."
        )
