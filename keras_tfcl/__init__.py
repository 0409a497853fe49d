"""Contrastive representation learning for Keras 3 and TensorFlow."""

from keras_tfcl import losses, negatives, ops, scaling
from keras_tfcl.losses import ArctanhInfoNCE, ContrastiveLoss, HardNegativeInfoNCE, InfoNCE
from keras_tfcl.negatives import HardNegatives, Negatives, ReweightedNegatives
from keras_tfcl.scaling import Arctanh, LearnableTemperature, Scaling, Temperature

__all__ = [
    "Arctanh",
    "ArctanhInfoNCE",
    "ContrastiveLoss",
    "HardNegativeInfoNCE",
    "HardNegatives",
    "InfoNCE",
    "LearnableTemperature",
    "Negatives",
    "ReweightedNegatives",
    "Scaling",
    "Temperature",
    "losses",
    "negatives",
    "ops",
    "scaling",
]
