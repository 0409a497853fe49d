from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_tfcl.scaling.arctanh import Arctanh
from keras_tfcl.scaling.scaling import Scaling
from keras_tfcl.scaling.temperature import Temperature
from keras_tfcl.validation import is_number


def get(identifier: object) -> Scaling:
    """Resolves what `scaling=` accepts.

    Args:
        identifier: a `Scaling`; a number (a temperature); `"arctanh"`; or a serialised scaling (a dictionary).

    Returns:
        A `Scaling`.

    Raises:
        ValueError: for anything else, for a temperature that is not positive and finite, and for a scaling that says
            `linear = True` and is not.

    Example:

    >>> keras_tfcl.scaling.get(0.2).get_config()
    {'temperature': 0.2}
    """
    if isinstance(identifier, Scaling):
        return _check_linear(identifier)
    if is_number(identifier):
        return Temperature(identifier)
    if identifier == "arctanh":
        return Arctanh()
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    raise ValueError(
        "`scaling` must be a temperature (a positive number), 'arctanh', or an instance of a keras_tfcl.Scaling. "
        f"Received: scaling={identifier!r}. Pass for example scaling=0.1 or scaling='arctanh', or derive a class from "
        "keras_tfcl.Scaling and pass an object of it."
    )


def scaling_of(model: keras.Model) -> Scaling | None:
    """The scaling of the loss that a model was compiled with, also by name; None for a loss without one."""
    loss = getattr(model, "loss", None)
    return getattr(keras.losses.get(loss) if isinstance(loss, str) else loss, "scaling", None)


def _check_linear(scaling: Scaling) -> Scaling:
    """Returns the scaling; raises ValueError if it claims to be linear and has no constant factor other than 0."""
    if not scaling.linear:
        return scaling
    cosines = np.array([-1.0, -0.5, 0.25, 1.0], "float32")  # powers of two, whose multiples half precision keeps
    with tf.init_scope():
        factors = np.asarray(tf.cast(scaling(tf.constant(cosines)), "float32")) / cosines
    if factors[-1] == 0 or not np.allclose(factors, factors[-1], rtol=1e-5):
        raise ValueError(
            "`linear = True` says that the logit is a factor, not 0, times the cosine. Received: "
            f"{type(scaling).__name__} with logit / cosine = {', '.join(f'{x:.6g}' for x in factors)} at the cosines "
            f"{', '.join(f'{x:g}' for x in cosines)}. Its variables would get wrong gradients: leave `linear` out."
        )
    return scaling
