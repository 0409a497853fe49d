"""Contrastive representation learning for Keras 3 and TensorFlow."""

from keras_tfcl import losses, negatives, ops, scaling
from keras_tfcl.losses import *
from keras_tfcl.negatives import HardNegatives, Negatives
from keras_tfcl.scaling import Arctanh, Scaling, Temperature
