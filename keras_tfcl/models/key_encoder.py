from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import keras
from keras import ops

from keras_tfcl._keras_compat import nested_layers
from keras_tfcl.models.gradient_cache import encode_in_slices
from keras_tfcl.models.substituted_weights import SubstitutedWeights, check_substitution
from keras_tfcl.models.towers import project_views
from keras_tfcl.ops.similarity import l2_normalize
from keras_tfcl.typing import Structure, Tensor, WeightStore

LORA = "lora_"  # names in a file


class KeyEncoder(keras.layers.Layer):
    """A slowly moving average of encoder and projector (MoCo): `key <- m * key + (1 - m) * query`.

    It holds a copy of the weights and no copy of the layers: a call runs the encoder's own layers on the copied
    weights. So vocabularies, adapted bins, shared and nested layers, LoRA and quantization are those of the encoder.

    Its projections, the keys, get no gradient. In training it runs in training mode, as MoCo's does: its batch
    normalisation uses the statistics of the batch, and dropout is active, with random numbers other than the
    encoder's. Only trained weights follow; moving statistics of batch normalisation are its own, gathered from the
    keys' batches.

    Args:
        networks: functional models from views to projections, whose weights are copied and followed.
        momentum: m, in [0, 1).
        rows: largest number of samples at a time, or None. The whole network runs in such slices, so that its
            projector's batch normalisation uses the statistics of a slice.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if a layer reads its weights in a way that the copy cannot replace.

    Reference: He et al. 2020 (MoCo), arXiv 1911.05722.
    """

    def __init__(
        self, networks: Sequence[keras.Model], momentum: float, rows: int | None = None, **kwargs: object
    ) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.autocast = False  # the encoder's layers cast for themselves, by their own policies
        self.momentum, self.rows = momentum, rows
        self._followed = _Followed(list(networks))
        self._pairs = [_Pair(self._copy(weight), weight) for weight in self._followed.weights()]
        for network in networks:
            check_substitution(network)
        self.built = True

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        self._check_same_weights()  # not in `call`, where Keras would add the arguments' values to the message
        return super().__call__(*args, **kwargs)

    def call(self, views: tuple[Structure, ...], training: bool | None = None) -> Tensor:
        """The keys `(B, V, D)` of V views, L2-normalised."""
        with SubstitutedWeights([(pair.query, pair.key) for pair in self._pairs]) as scope:
            keys = project_views(self._functions(), views, training)
        scope.assign_updates()
        return ops.stop_gradient(l2_normalize(keys))

    def follow(self) -> None:
        """Moves the trained weights one step towards those of the encoder."""
        for pair in self._pairs:
            if pair.query.trainable:
                pair.key.assign(self.momentum * pair.key + (1.0 - self.momentum) * pair.query)

    def save_own_variables(self, store: WeightStore) -> None:
        """Writes the copy, and the encoder's LoRA layers as they are: Keras writes them merged, as other weights."""
        super().save_own_variables(store)
        for number, weight in enumerate(self._followed.lora_weights()):
            store[f"{LORA}{number}"] = weight

    def load_own_variables(self, store: WeightStore) -> None:
        """Reads what was written; the encoder has been loaded by now."""
        for number, weight in enumerate(self._followed.lora_weights()):
            weight.assign(store[f"{LORA}{number}"])
        super().load_own_variables({name: store[name] for name in store.keys() if not name.startswith(LORA)})

    def _functions(self) -> Sequence[Callable[..., Tensor]]:
        networks = self._followed.networks
        return networks if self.rows is None else [partial(encode_in_slices, n, rows=self.rows) for n in networks]

    def _copy(self, weight: keras.Variable) -> keras.Variable:
        copy = self.add_weight(
            name=weight.name,
            shape=weight.shape,
            dtype=weight.dtype,
            initializer="zeros",
            trainable=False,
            aggregation=weight.aggregation,
        )
        copy.assign(weight)
        return copy

    def _check_same_weights(self) -> None:
        copied = {id(pair.query) for pair in self._pairs}
        present = {id(weight): weight for weight in self._followed.weights()}
        if copied == present.keys():
            return
        new = [weight.path for key, weight in present.items() if key not in copied]
        raise ValueError(
            "The encoder must keep the weights that it had when ContrastiveModel(..., momentum=...) copied them. "
            f"Received: {len(new)} new weights, such as {new[:3]}, and {len(copied - present.keys())} fewer. Build, "
            "quantize and enable LoRA first, then make the ContrastiveModel."
        )


@dataclass(frozen=True)  # not a list: Keras would track the encoder's layers and weights as this layer's
class _Followed:
    networks: list[keras.Model]

    def weights(self) -> list[keras.Variable]:
        """Each weight once, also where networks share layers. Without random seeds: keys draw on in the encoder's."""
        return list({id(weight): weight for network in self.networks for weight in network.weights}.values())

    def lora_weights(self) -> list[keras.Variable]:
        """The weights of layers that LoRA is enabled on."""
        layers = [layer for network in self.networks for layer in nested_layers(network)]
        layers = [layer for layer in layers if getattr(layer, "lora_enabled", False)]
        return list({id(weight): weight for layer in layers for weight in layer.weights}.values())


@dataclass(frozen=True)
class _Pair:
    key: keras.Variable
    query: keras.Variable
