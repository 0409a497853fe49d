"""Choices of negatives: `"all"`, `HardNegatives`, `ReweightedNegatives`, or a `Negatives` of your own."""

from keras_tfcl.negatives.hard import HardNegatives
from keras_tfcl.negatives.negatives import Negatives
from keras_tfcl.negatives.resolve import get
from keras_tfcl.negatives.reweighted import ReweightedNegatives
from keras_tfcl.negatives.without_near_duplicates import WithoutNearDuplicates

__all__ = ["HardNegatives", "Negatives", "ReweightedNegatives", "WithoutNearDuplicates", "get"]
