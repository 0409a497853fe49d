"""Finds the variables that a loss trains, such as a learnable temperature, and makes them part of a model."""

from __future__ import annotations

import keras

from keras_tfcl._keras_compat import leave_out_of_weight_decay
from keras_tfcl.ops.held import layers_and_variables


def layers_of_loss(loss: object) -> list[keras.Layer]:
    """The layers inside a loss, and one `LossVariables` for variables that are in no layer.

    The search covers the attributes of the loss, the objects that they hold, and lists, tuples, sets and dictionaries,
    at any depth. It finds a `Scaling` or `Negatives` of your own that holds a `LearnableTemperature`, and a
    `keras.Variable` itself.

    Args:
        loss: a Keras loss, or a part of one.

    Returns:
        Each layer once, in the order of the attributes, so that a loaded loss gives the same order.
    """
    found = layers_and_variables(loss)
    layers = [part for part in found if isinstance(part, keras.Layer)]
    in_layers = {id(variable) for layer in layers for variable in layer.variables}
    alone = [part for part in found if not isinstance(part, keras.Layer) and id(part) not in in_layers]
    return [*layers, LossVariables(alone)] if alone else layers


def variables_of_loss(loss: object) -> list[keras.Variable]:
    """The variables inside a loss, each once; see `layers_of_loss`."""
    return list({id(v): v for layer in layers_of_loss(loss) for v in layer.variables}.values())


def leave_temperatures_out_of_weight_decay(optimizer: keras.optimizers.Optimizer, layers: list[keras.Layer]) -> None:
    """Excludes the scalars and vectors that are trained inside a loss from weight decay, as CLIP does.

    Weight decay would pull a temperature towards 1 and SigLIP's bias towards 0. Matrices, such as class centres,
    are not excluded.
    """
    trained = [variable for layer in layers for variable in layer.trainable_variables]
    leave_out_of_weight_decay(optimizer, [variable for variable in trained if len(variable.shape) < 2])


class LossVariables(keras.layers.Layer):
    """Holds the variables of a loss that are in no layer, so that a model counts, trains and saves them.

    Args:
        variables: the variables.
    """

    def __init__(self, variables: list[keras.Variable]) -> None:
        super().__init__(name="loss_variables")
        self.held = list(variables)
        self.built = True
