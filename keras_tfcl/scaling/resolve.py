from __future__ import annotations

import keras

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
        ValueError: for anything else, and for a temperature that is not positive and finite.

    Example:

    >>> keras_tfcl.scaling.get(0.2).get_config()
    {'temperature': 0.2}
    """
    if isinstance(identifier, Scaling):
        return identifier
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
