"""Contrastive losses for `model.compile(loss=...)`."""

from __future__ import annotations

import keras

from keras_tfcl._keras_compat import name_losses
from keras_tfcl.losses.arctanh_info_nce import ArctanhInfoNCE
from keras_tfcl.losses.contrastive import ContrastiveLoss
from keras_tfcl.losses.decoupled import DecoupledInfoNCE
from keras_tfcl.losses.embedding_loss import EmbeddingLoss
from keras_tfcl.losses.hard_negative_info_nce import HardNegativeInfoNCE
from keras_tfcl.losses.info_nce import InfoNCE
from keras_tfcl.losses.scored_pairs import CoSENTLoss, PairContrastiveLoss, ScoredPairLoss
from keras_tfcl.losses.sigmoid import SigmoidContrastiveLoss
from keras_tfcl.losses.simple import SimpleContrastiveLoss

__all__ = [
    "ArctanhInfoNCE",
    "CoSENTLoss",
    "ContrastiveLoss",
    "DecoupledInfoNCE",
    "EmbeddingLoss",
    "HardNegativeInfoNCE",
    "InfoNCE",
    "PairContrastiveLoss",
    "ScoredPairLoss",
    "SigmoidContrastiveLoss",
    "SimpleContrastiveLoss",
    "get",
]

_BY_NAME = {
    "infonce": InfoNCE,
    "arctanh_infonce": ArctanhInfoNCE,
    "decoupled_infonce": DecoupledInfoNCE,
    "hard_negative_infonce": HardNegativeInfoNCE,
    "cosent": CoSENTLoss,
    "pair_contrastive": PairContrastiveLoss,
    "sigmoid_contrastive": SigmoidContrastiveLoss,
    "simple_contrastive": SimpleContrastiveLoss,
}
name_losses(_BY_NAME)  # as in encoder.compile(loss="arctanh_infonce")


def get(identifier: object) -> keras.losses.Loss:
    """Resolves a contrastive loss by name; passes Keras losses and their configurations through.

    Args:
        identifier: `"infonce"`, `"arctanh_infonce"`, `"decoupled_infonce"`, `"hard_negative_infonce"`, `"cosent"`,
            `"pair_contrastive"`, `"sigmoid_contrastive"`, `"simple_contrastive"` (each with its defaults), a Keras
            loss, or a serialised one (a dictionary).

    Returns:
        A Keras loss.

    Raises:
        ValueError: for an unknown name, or anything else.

    Example:

    >>> keras_tfcl.losses.get("arctanh_infonce").scale
    2.0
    """
    if isinstance(identifier, keras.losses.Loss):
        return identifier
    if isinstance(identifier, str) and identifier in _BY_NAME:
        return _BY_NAME[identifier]()
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    raise ValueError(
        f"`loss` must be one of {sorted(_BY_NAME)}, or a Keras loss. Received: {identifier!r}. "
        "For arguments other than the defaults pass an object, such as InfoNCE(temperature=0.5)."
    )
