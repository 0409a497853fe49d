"""Margins: positives must be more similar than negatives by a given amount."""

from __future__ import annotations

import math

import keras

from keras_tfcl.ops.scaling import angular_margin
from keras_tfcl.ops.similarity import at_least_float32
from keras_tfcl.scaling.arctanh import Arctanh
from keras_tfcl.scaling.resolve import get
from keras_tfcl.scaling.scaling import Scaling
from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import positive_number


class _Margin(Scaling):
    """Passes cosines on to another scaling; a subclass lowers the cosines of positives."""

    def __init__(self, scaling: float | Scaling, margin: float, largest: float, remedy: str) -> None:
        self.scaling = get(scaling)
        if isinstance(self.scaling, Arctanh):
            raise ValueError(
                "A margin lowers cosines below -1, where arctanh is not defined. Received: scaling="
                f"{scaling!r}. Pass a temperature, such as {type(self).__name__}(0.1)."
            )
        self.margin = positive_number("margin", margin, remedy)
        if self.margin > largest:
            raise ValueError(f"`margin` must be a number in (0, {largest:.4g}]. Received: margin={margin!r}. {remedy}")

    def __call__(self, similarity: Tensor) -> Tensor:
        return self.scaling(similarity)

    def exp(self, similarity: Tensor, power: float, shift: float) -> Tensor:
        return self.scaling.exp(similarity, power, shift)

    def get_config(self) -> Config:
        return {"scaling": keras.saving.serialize_keras_object(self.scaling), "margin": self.margin}


@keras.saving.register_keras_serializable(package="keras_tfcl")
class CosineMargin(_Margin):
    """Subtracts a margin from the cosine of each positive before it is scaled (CosFace, AM-Softmax).

    Formula: the logit is `scaling(s - margin)` for positives and `scaling(s)` for negatives, also within the
    denominator. A positive must therefore be more similar than a negative by `margin` to have the same logit. Margins
    are meant for class labels, where they make classes compact.

    Args:
        scaling: a temperature or a `Scaling`, but not arctanh, which has no value below cosine -1. Defaults to 0.1.
        margin: number in (0, 2]. Defaults to 0.35.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> z = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], "float32")
    >>> plain = keras_tfcl.ContrastiveLoss(0.5)
    >>> strict = keras_tfcl.ContrastiveLoss(keras_tfcl.CosineMargin(0.5, margin=0.5))
    >>> round(float(plain([0, 0, 1, 1], z)), 4), round(float(strict([0, 0, 1, 1], z)), 4)
    (0.2395, 0.5514)

    Reference: Wang et al. 2018, "CosFace: Large Margin Cosine Loss for Deep Face Recognition", arXiv 1801.09414.
    """

    def __init__(self, scaling: float | Scaling = 0.1, margin: float = 0.35) -> None:
        super().__init__(scaling, margin, 2.0, "CosFace uses 0.35.")

    def positive_cosine(self, similarity: Tensor) -> Tensor:
        return at_least_float32(similarity) - self.margin


@keras.saving.register_keras_serializable(package="keras_tfcl")
class AngularMargin(_Margin):
    """Adds a margin to the angle of each positive before its cosine is scaled (ArcFace).

    Formula: the logit is `scaling(cos(a + margin))` for positives of angle `a = arccos(s)`, and `scaling(s)` for
    negatives, also within the denominator. Where `a + margin` exceeds pi it is `scaling(s - margin * sin(margin))`, as
    in the authors' code. See `keras_tfcl.ops.angular_margin` for equal embeddings. Margins are meant for class labels,
    where they make classes compact.

    Args:
        scaling: a temperature or a `Scaling`, but not arctanh, which has no value below cosine -1. Defaults to 0.1.
        margin: radians in (0, pi / 2]. Defaults to 0.5, which is 28.6 degrees.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> loss = keras_tfcl.ContrastiveLoss(keras_tfcl.AngularMargin(0.1, margin=0.5))

    Reference: Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", arXiv 1801.07698.
    """

    def __init__(self, scaling: float | Scaling = 0.1, margin: float = 0.5) -> None:
        super().__init__(scaling, margin, math.pi / 2, "ArcFace uses 0.5 radians.")

    def positive_cosine(self, similarity: Tensor) -> Tensor:
        return angular_margin(similarity, self.margin)
