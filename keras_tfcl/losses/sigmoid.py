from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl.losses.embedding_loss import EmbeddingLoss
from keras_tfcl.ops.comparison import Comparison
from keras_tfcl.ops.info_nce import AnchorLosses
from keras_tfcl.ops.masks import Pairs
from keras_tfcl.ops.pair_sums import sigmoid_losses
from keras_tfcl.ops.pairwise import Count, Logits, Softplus, reduce_pairs
from keras_tfcl.ops.scaling import spread
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import is_number, positive_number


@keras.saving.register_keras_serializable(package="keras_tfcl")
class SigmoidContrastiveLoss(EmbeddingLoss):
    """Computes the sigmoid loss of SigLIP, which classifies each pair by itself as positive or negative.

    Formula, for each anchor i with cosines s, positives P and negatives N:

        loss_i = sum over p in P of softplus(-(scale * s_ip + bias)) + sum over j in N of softplus(scale * s_ij + bias)

    There is no softmax over the batch. The loss is a sum over candidates, so it grows with the batch. With
    `cross_view_only=True` and `y_pred` of shape `(B, 2, D)` it is SigLIP's loss: the mean over both directions equals
    the authors' `1/B * sum` over the matrix. See `ContrastiveLoss` for labels, shapes, numerics and errors.

    `ContrastiveModel` trains scale and bias with the embeddings, and saves them. A plain Keras model does not train the
    variables of a loss, so they stay constant there.

    Args:
        scale: a positive number, the initial scale. Defaults to 10.
        bias: a finite number, the initial bias. Defaults to -10, because nearly all pairs are negatives.
        learnable: whether to train both, the scale through its logarithm. Defaults to True.
        **kwargs: `cross_view_only`, `block_size`, `precision`, `reduction`, `name`, `dtype`, `roles`, `symmetric`,
            `ignore_class`, `unlabelled_class`, `same_label` of `ContrastiveLoss`.

    Raises:
        ValueError: if `scale` is not positive and finite or `bias` not finite; and as `ContrastiveLoss`.

    Example:

    >>> loss = keras_tfcl.SigmoidContrastiveLoss(cross_view_only=True)
    >>> orthogonal = np.eye(8, dtype="float32").reshape(4, 2, 8)
    >>> round(float(loss(np.arange(4), orthogonal)), 4)  # softplus(10) + 3 softplus(-10)
    10.0002

    Reference: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343.
    """

    def __init__(
        self,
        scale: float = 10.0,
        bias: float = -10.0,
        learnable: bool = True,
        *,
        name: str = "sigmoid_contrastive",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if not is_number(bias) or not math.isfinite(bias):
            raise ValueError(f"`bias` must be a finite number. Received: bias={bias!r}. SigLIP starts at -10.")
        self.scale = positive_number("scale", scale, "SigLIP starts at 10.")
        self.bias = float(bias)
        self.learnable = learnable
        self.logits = SigmoidLogits(self.scale, self.bias, trainable=learnable)

    def losses_of_pairs(self, similarity: Tensor, pairs: Pairs) -> Tensor:
        return sigmoid_losses(self.logits(similarity), pairs)

    def _losses_of(self, comparison: Comparison) -> AnchorLosses:
        block = self._block(comparison)
        if block is None:
            return super()._losses_of(comparison)
        reducers = [Softplus(), Count("positive")]
        losses, count = reduce_pairs(
            comparison, reducers, Logits(self.logits), block=block, precision=self.precision
        ).joined()
        return AnchorLosses(tf.where(count > 0, losses, 0.0), count > 0)

    def get_config(self) -> Config:
        return {**super().get_config(), "scale": self.scale, "bias": self.bias, "learnable": self.learnable}


@keras.saving.register_keras_serializable(package="keras_tfcl")
class SigmoidLogits(keras.layers.Layer):
    """`logit = exp(log_scale) * s + bias`, both variables trained with the model.

    Args:
        scale: positive number, at the start.
        bias: number, at the start.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, scale: float, bias: float, **kwargs: object) -> None:
        kwargs.setdefault("name", "sigmoid_logits")
        super().__init__(**kwargs)
        self.autocast = False  # else cosines (and below, the variable) become half precision under mixed_float16
        self.scale, self.bias_start = scale, bias
        self.log_scale = self._scalar("log_scale", math.log(scale))
        self.bias = self._scalar("bias", bias)
        self.built = True

    def _scalar(self, name: str, start: float) -> keras.Variable:
        constant = keras.initializers.Constant(start)
        return self.add_weight(name=name, shape=(), dtype="float32", autocast=False, initializer=constant)

    def call(self, similarity: Tensor) -> Tensor:
        log_scale, bias = (ops.cast(v, similarity.dtype) for v in (self.log_scale, self.bias))
        return spread(ops.exp(log_scale), similarity) * similarity + spread(bias, similarity)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "scale": self.scale, "bias": self.bias_start}
