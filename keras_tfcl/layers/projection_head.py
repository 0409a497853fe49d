"""The MLP between encoder and loss, dropped after training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_tfcl.typing import Config, Tensor
from keras_tfcl.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ProjectionHead(keras.layers.Layer):
    """Maps features to the space of the contrastive loss: `Dense - BatchNorm - activation - ... - Dense`.

    Every entry of `units` except the last is a hidden layer, and the last one is linear. The output is not normalised,
    because the losses and metrics of this library normalise it. The projection head is not a classifier. The features
    before it are the better embedding, so keep the encoder.

    Args:
        units: output size of each dense layer, integers of at least 1. Defaults to `(256, 128)`: one hidden layer.
        activation: name or function after each hidden layer. Defaults to `"relu"`.
        batch_norm: whether hidden layers are batch-normalised; they then have no bias. Defaults to True.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Call arguments:
        inputs: features `(B, F)`.
        training: whether batch normalisation uses the batch's statistics.

    Returns:
        `(B, units[-1])`, in the layer's compute dtype.

    Raises:
        ValueError: if `units` is empty or holds anything but positive integers, or if the input is not of rank 2.

    Example:

    >>> head = ProjectionHead((64, 32))
    >>> head(np.ones((8, 512), "float32")).shape
    TensorShape([8, 32])

    Reference: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
    arXiv 2002.05709.
    """

    def __init__(
        self,
        units: Sequence[int] = (256, 128),
        activation: str | Callable[[Tensor], Tensor] = "relu",
        batch_norm: bool = True,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.units = _checked_units(units)
        self.activation = keras.activations.get(activation)
        self.batch_norm = batch_norm
        self.stages = self._make_stages()

    def _make_stages(self) -> list[keras.layers.Layer]:
        *hidden, last = self.units
        stages: list[keras.layers.Layer] = []
        for size in hidden:
            # Batch normalisation subtracts any bias again.
            stages.append(keras.layers.Dense(size, use_bias=not self.batch_norm, dtype=self.dtype_policy))
            if self.batch_norm:
                # SimCLR's momentum: with Keras' 0.99 the statistics of inference lag hundreds of steps behind.
                stages.append(keras.layers.BatchNormalization(momentum=0.9, dtype=self.dtype_policy))
            stages.append(keras.layers.Activation(self.activation, dtype=self.dtype_policy))
        return [*stages, keras.layers.Dense(last, dtype=self.dtype_policy)]

    def build(self, input_shape: Sequence[int | None]) -> None:
        if len(input_shape) != 2:
            raise ValueError(
                f"`{self.name}` expects features of shape (B, F). Received: shape={tuple(input_shape)}. "
                "Pool or flatten the encoder's output first, for example with keras.layers.GlobalAveragePooling2D()."
            )
        if input_shape[-1] is None:
            raise ValueError(
                f"`{self.name}` needs the number of features. Received: shape={tuple(input_shape)}. "
                "Give the encoder an output of fixed size."
            )
        shape = tuple(input_shape)
        for stage in self.stages:
            stage.build(shape)
            shape = stage.compute_output_shape(shape)

    def get_build_config(self) -> Config | None:
        config: Config | None = super().get_build_config()
        if config is not None:  # quantization changes the policy of each dense layer
            config["policies"] = [keras.dtype_policies.serialize(stage.dtype_policy) for stage in self.stages]
        return config

    def build_from_config(self, config: dict[str, Any]) -> None:
        for stage, policy in zip(self.stages, config["policies"], strict=True):
            stage.dtype_policy = keras.dtype_policies.deserialize(policy)
        self.build(config["input_shape"])

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        for stage in self.stages:
            normalises = isinstance(stage, keras.layers.BatchNormalization)
            inputs = stage(inputs, training=training) if normalises else stage(inputs)
        return inputs  # (B, units[-1])

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], self.units[-1])

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "batch_norm": self.batch_norm,
        }


def _checked_units(units: Sequence[int]) -> tuple[int, ...]:
    if isinstance(units, (str, bytes)) or not isinstance(units, Sequence) or len(units) == 0:
        raise ValueError(
            f"`units` must be a non-empty sequence of integers. Received: units={units!r}. Use for example (256, 128)."
        )
    remedy = "`units` lists the size of each dense layer, for example (256, 128)."
    return tuple(positive_integer("units", size, remedy) for size in units)
