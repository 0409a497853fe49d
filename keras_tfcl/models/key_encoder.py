from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_tfcl._keras_compat import nested_layers
from keras_tfcl.models.embedder import project_views
from keras_tfcl.models.gradient_cache import encode_in_slices
from keras_tfcl.ops.similarity import l2_normalize


class KeyEncoder(keras.layers.Layer):
    """A copy of encoder and projector that follows them slowly (MoCo): `key <- m * key + (1 - m) * query`.

    Its projections, the keys, get no gradient. In training it runs in training mode, as MoCo's does: its batch
    normalisation uses the statistics of the batch, as the encoder's does, and dropout is active. Only trained weights
    follow; moving statistics of batch normalisation are its own, gathered from the keys' batches.

    Args:
        networks: functional models from views to projections, which are copied and followed.
        momentum: m, in [0, 1).
        rows: largest number of rows at a time, or None. The whole network runs in such slices, so that its projector's
            batch normalisation uses the statistics of a slice.
        **kwargs: of `keras.layers.Layer`.

    Reference: He et al. 2020 (MoCo), arXiv 1911.05722.
    """

    def __init__(
        self, networks: Sequence[keras.Model], momentum: float, rows: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.momentum, self.rows = momentum, rows
        self.networks = [_copy(network) for network in networks]
        self._pairs = [
            _Pair(*pair)
            for mine, theirs in zip(self.networks, networks, strict=True)
            for pair in zip(mine.weights, theirs.weights, strict=True)
        ]
        self.built = True

    @property
    def trainable(self) -> bool:
        # Always: a frozen batch normalisation would not use the batch's statistics. It is the weights that are frozen.
        return True

    @trainable.setter
    def trainable(self, value: bool) -> None:
        pass

    def call(self, views: tuple, training: bool | None = None) -> Any:
        """The keys `(B, V, D)` of V views, L2-normalised."""
        return ops.stop_gradient(l2_normalize(project_views(self._functions(), views, training)))

    def _functions(self) -> Sequence[Callable[..., Any]]:
        if self.rows is None:
            return self.networks
        return [partial(encode_in_slices, network, rows=self.rows) for network in self.networks]

    def follow(self) -> None:
        """Moves the trained weights one step towards those of the encoder."""
        for pair in self._pairs:
            if pair.query.trainable:
                pair.key.assign(self.momentum * pair.key + (1.0 - self.momentum) * pair.query)


@dataclass(frozen=True)  # not a tuple: Keras would track the encoder's weights as this layer's
class _Pair:
    key: keras.Variable
    query: keras.Variable


def _copy(network: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    for layer in nested_layers(copy):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()  # what Normalization computes from its weights
    for weight in copy.weights:
        weight.trainable = False
    return copy
