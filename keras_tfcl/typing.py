"""The types that the library's signatures share.

Keras and TensorFlow ship no types of their own, so that a type checker takes both names for `Any`; a reader does not.
"""

from __future__ import annotations

from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

# One tensor of TensorFlow, or its symbol while Keras builds a functional model.
Tensor: TypeAlias = tf.Tensor | keras.KerasTensor
# What `keras.ops.convert_to_tensor` takes: a tensor, an array, a variable, or nested lists of numbers.
TensorLike: TypeAlias = Tensor | tf.Variable | keras.Variable | np.typing.ArrayLike
