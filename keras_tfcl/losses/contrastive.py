from __future__ import annotations

import keras

from keras_tfcl import negatives as negatives_module
from keras_tfcl import scaling as scaling_module
from keras_tfcl.losses.embedding_loss import EmbeddingLoss
from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.info_nce import AnchorLosses, Statistics, statistics
from keras_tfcl.typing import Config, DType


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ContrastiveLoss(EmbeddingLoss):
    """Computes InfoNCE in its general form: any scaling of the cosine, any choice of negatives, positives by label.

    Formula, for each anchor i with logits `l_ij` of the cosines, positives P and chosen negatives N:

        loss_i = -mean over p in P of  log( exp(l_ip) / (sum over P and N of exp(l_ij)) )

    **Who is positive.** Two embeddings are a positive pair when their labels are equal and they are not the same
    embedding. All other pairs are negatives. Row numbers as `y_true`, with several views, give SimCLR; class labels
    give SupCon. Anchors without a positive have zero loss and gradient and are left out of the mean. If no anchor of a
    batch has a positive, the loss is 0, with one warning outside `tf.function`.

    **Numerics.** Small batches are computed in float64, large ones in tiles in float32 (float64 for float64
    embeddings). Both agree to float32 rounding. Embeddings need not be normalised, and the gradient has their dtype. A
    zero vector has cosine 0 with every vector. NaN or Inf raises ValueError outside `tf.function`, and makes the loss
    NaN inside.

    This is not a classification loss: `y_pred` holds embeddings, not class scores. The additional memory is a few times
    the embeddings and a few tiles of `4 * block_size^2` bytes or, in the dense form, a few times `8 * (B * V)^2` bytes.
    Keras masks on `y_pred` are ignored. Give padded samples a separate label and pass it as `ignore_class`.

    Args:
        scaling: a temperature, `"arctanh"`, or a `keras_tfcl.Scaling`.
        negatives: `"all"`, or a `keras_tfcl.Negatives` such as `HardNegatives(alpha=0.1)`. Defaults to `"all"`.
        decoupled: whether to leave the positives out of the denominator (Yeh et al. 2022, arXiv 2110.06848). Defaults
            to False.
        cross_view_only: whether to compare different views only, in both directions, as CLIP and bi-encoders do. It
            needs `y_pred` of shape `(B, V, D)` with V >= 2. Defaults to False: all embeddings are compared.
        block_size: edge of the tiles in which the similarity matrix is computed; `"dense"` for the whole matrix at
            once, in float64; or `"auto"`, the default: on a CPU dense up to 256 embeddings (B * V), one tile up to 512
            (up to 2048 with `cross_view_only` or other candidates), and tiles of 512 beyond, or where the batch size is
            not known; on a GPU larger tiles, by its memory. Smaller tiles save memory.
        reduction: `"sum_over_batch_size"` (the mean over anchors with a positive, the default), `"mean"` (the same),
            `"sum"`, `"mean_with_sample_weight"`, or `"none"` / None for the loss of every anchor.
        name: name of the loss.
        dtype: dtype of the result. Defaults to `keras.backend.floatx()`.
        roles: the role of each view of `y_pred` `(B, V, D)`, such as `("anchor", "positive", "negative")`. Anchors are
            compared with all positives and negatives of the batch, and never with anchors; the `"positive"` views of
            samples with an anchor's label are its positives. This is one direction, with explicit hard negatives
            (MultipleNegativesRankingLoss of sentence-transformers; Henderson et al. 2017, arXiv 1705.00652). Defaults
            to None: all views are anchors and candidates, and views of one sample are positives of one another.
        symmetric: with `roles`, the direction from positives to anchors counts too. Defaults to False.
        ignore_class: samples with this label are neither anchors nor candidates, such as padding. Defaults to None.
        unlabelled_class: samples with this label have only their own views as positives, and are negatives of all
            others (semi-supervised). Defaults to None.
        same_label: `"ignore"` leaves other samples with the anchor's label out of the comparison (accidental hits);
            only its own views are positives. Defaults to `"positive"`.
        precision: what the matrix products of tiles are computed in. None, the default, is what TensorFlow does: on a
            GPU that has TF32 it rounds float32 to 10 bits, so that cosines are exact to about 1e-3, unless
            `tf.config.experimental.enable_tensor_float_32_execution(False)`. `"highest"` computes them in full float32
            on every device. `"input"` computes them in float16 or bfloat16, with sums in float32, if `y_pred` is in
            half precision, and changes nothing if it is not.

    Call arguments:
        y_true: integer labels `(B,)` or `(B, 1)`. They stay integers, so labels above 2^24 remain distinct. Or
            multi-hot labels `(B, L)`, 0 or 1, L > 1: samples that share a label are positives, and so are views of one
            sample.
        y_pred: float embeddings `(B, D)`, or `(B, V, D)` for V views of each sample.
        sample_weight: weight of each anchor, `(B,)` or `(B, V)`.

    Returns:
        A scalar, or `(B,)` or `(B, V)` for reduction None. With `roles` it is `(B,)` for one anchor, else
        `(B, anchors)`, followed by the positives if symmetric.

    Raises:
        ValueError: for arguments out of range, wrong shapes, labels that are not integers, non-finite embeddings.

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
        scaling: float | str | scaling_module.Scaling,
        negatives: str | negatives_module.Negatives = "all",
        decoupled: bool = False,
        cross_view_only: bool = False,
        block_size: str | int = "auto",
        reduction: str | None = "sum_over_batch_size",
        name: str = "contrastive_loss",
        dtype: DType | None = None,
        roles: tuple[str, ...] | None = None,
        symmetric: bool = False,
        ignore_class: int | None = None,
        unlabelled_class: int | None = None,
        same_label: str = "positive",
        precision: str | None = None,
    ) -> None:
        super().__init__(
            cross_view_only=cross_view_only,
            reduction=reduction,
            name=name,
            dtype=dtype,
            block_size=block_size,
            roles=roles,
            symmetric=symmetric,
            ignore_class=ignore_class,
            unlabelled_class=unlabelled_class,
            same_label=same_label,
            precision=precision,
        )
        self.scaling = scaling_module.get(scaling)
        self.negatives = negatives_module.get(negatives)
        self.decoupled = decoupled

    @property
    def corrects_sampling(self) -> bool:
        return True

    def _losses_of(self, comparison: Comparison) -> AnchorLosses:
        return self._statistics(comparison).losses(self.decoupled)

    def _statistics(self, comparison: Comparison) -> Statistics:
        return statistics(
            comparison,
            scaling=self.scaling,
            negatives=self.negatives,
            decoupled=self.decoupled,
            block=self._block(comparison),
            precision=self.precision,
        )

    @property
    def _requirement(self) -> str:
        return "a positive and a negative (another label)" if self.decoupled else "a positive"

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "scaling": keras.saving.serialize_keras_object(self.scaling),
            "negatives": keras.saving.serialize_keras_object(self.negatives),
            "decoupled": self.decoupled,
        }
