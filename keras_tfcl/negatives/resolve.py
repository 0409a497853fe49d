from __future__ import annotations

import keras

from keras_tfcl.negatives.negatives import Negatives


def get(identifier: object) -> Negatives:
    """Resolves what `negatives=` accepts.

    Args:
        identifier: `"all"`; a `Negatives`; or a serialised one (a dictionary).

    Returns:
        A `Negatives`.

    Raises:
        ValueError: for anything else.

    Example:

    >>> type(keras_tfcl.negatives.get("all")).__name__
    'Negatives'
    """
    if isinstance(identifier, Negatives):
        return identifier
    if identifier == "all":
        return Negatives()
    if isinstance(identifier, dict):
        return get(keras.saving.deserialize_keras_object(identifier))
    raise ValueError(
        "`negatives` must be 'all' or a keras_tfcl.Negatives such as HardNegatives(alpha=0.1). "
        f"Received: negatives={identifier!r}."
    )
