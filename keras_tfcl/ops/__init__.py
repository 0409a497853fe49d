"""Pure functions of tensors: cosine, logits, masks and InfoNCE."""

from keras_tfcl.ops.candidates import Candidates
from keras_tfcl.ops.contrastive_loss import contrastive_loss
from keras_tfcl.ops.hard import hardest
from keras_tfcl.ops.info_nce import info_nce_from_logits
from keras_tfcl.ops.masks import Pairs, pair_masks
from keras_tfcl.ops.reweighted import reweighted_log_sum
from keras_tfcl.ops.scaling import angular_margin, arctanh_logits, temperature_logits
from keras_tfcl.ops.scored_pairs import contrastive_pair_losses, cosent_loss, pair_cosines
from keras_tfcl.ops.similarity import cosine_similarity, l2_normalize

__all__ = [
    "Candidates",
    "Pairs",
    "angular_margin",
    "arctanh_logits",
    "contrastive_loss",
    "contrastive_pair_losses",
    "cosent_loss",
    "cosine_similarity",
    "hardest",
    "info_nce_from_logits",
    "l2_normalize",
    "pair_cosines",
    "pair_masks",
    "reweighted_log_sum",
    "temperature_logits",
]
