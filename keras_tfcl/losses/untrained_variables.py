"""Warns that a plain Keras model does not train the variables inside its loss."""

from __future__ import annotations

import inspect
import warnings

import keras

from keras_tfcl.losses.loss_variables import variables_of_loss


def warn_of_untrained_variables(loss: keras.losses.Loss) -> bool:
    """Warns if the Keras model whose training step is calling the loss does not train the loss's variables.

    Returns:
        Whether it warned.
    """
    trainable = [variable for variable in variables_of_loss(loss) if variable.trainable]
    model = _model_in_training() if trainable else None
    if model is None:
        return False
    trained = {id(variable) for variable in model.trainable_variables}
    stuck = [variable.path for variable in trainable if id(variable) not in trained]
    if not stuck:
        return False
    warnings.warn(
        f"{loss.name}: the loss learns {', '.join(stuck)} (its temperature, scale or bias), but {type(model).__name__} "
        f"`{model.name}` trains its own weights only, so that stays at its initial value. Compile and fit "
        "keras_tfcl.ContrastiveModel(encoder) with this loss; it trains and saves both. Or fix the temperature, as in "
        "InfoNCE(temperature=0.1).",
        stacklevel=3,
    )
    return True


def _model_in_training() -> keras.Model | None:
    """The model whose training step is on the stack, if that step is Keras' own.

    A loss is not told who calls it; a training step of your own may well train the loss's variables.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "train_step" and frame.f_globals.get("__name__", "").startswith("keras."):
            return frame.f_locals.get("self")
        frame = frame.f_back
    return None
