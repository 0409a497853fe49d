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
    """Computes keys with an exponential moving average of encoder and projector (MoCo).

    Formula: `key <- m * key + (1 - m) * query`, for each trained weight after each step.

    It copies weights, not layers: a call runs the encoder's own layers on the copied weights. Vocabularies, adapted
    bins, shared and nested layers, LoRA and quantization are therefore shared with the encoder. Weights in half
    precision are copied to float32, because a step of the average is smaller than their rounding.

    The keys have no gradient. In training, the key encoder runs in training mode, as in MoCo: batch normalisation uses
    the statistics of the batch, and dropout is active, with random numbers that differ from the encoder's. The EMA
    update covers trained weights only. The moving statistics of batch normalisation are gathered from the batches of
    keys.

    Args:
        networks: functional models from views to projections, whose weights are averaged.
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
        self._queries = _Queries(list(networks))
        self._pairs = [_Pair(self._copy(weight), weight) for weight in self._queries.weights()]
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

    def copy_weights(self) -> None:
        """Copies the encoder's weights once more, which may have been set since they were copied."""
        for pair in self._pairs:
            pair.key.assign(pair.query)

    def update(self) -> None:
        """Updates the trained weights by one step of the moving average."""
        for pair in self._pairs:
            if pair.query.trainable:
                query = ops.cast(pair.query, pair.key.dtype)
                pair.key.assign(self.momentum * pair.key + (1.0 - self.momentum) * query)

    def save_own_variables(self, store: WeightStore) -> None:
        """Writes the copy, and the encoder's LoRA layers as they are: Keras writes them merged, as other weights."""
        super().save_own_variables(store)
        for number, weight in enumerate(self._queries.lora_weights()):
            store[f"{LORA}{number}"] = weight

    def load_own_variables(self, store: WeightStore) -> None:
        """Reads what was written; the encoder has been loaded by now."""
        for number, weight in enumerate(self._queries.lora_weights()):
            weight.assign(store[f"{LORA}{number}"])
        super().load_own_variables({name: store[name] for name in store.keys() if not name.startswith(LORA)})

    def _functions(self) -> Sequence[Callable[..., Tensor]]:
        networks = self._queries.networks
        return networks if self.rows is None else [partial(encode_in_slices, n, rows=self.rows) for n in networks]

    def _copy(self, weight: keras.Variable) -> keras.Variable:
        copy = self.add_weight(
            name=weight.name,
            shape=weight.shape,
            dtype="float32" if weight.dtype in ("float16", "bfloat16") else weight.dtype,
            initializer="zeros",
            trainable=False,
            aggregation=weight.aggregation,
        )
        copy.assign(weight)
        return copy

    def _check_same_weights(self) -> None:
        copied = {id(pair.query) for pair in self._pairs}
        current = {id(weight): weight for weight in self._queries.weights()}
        if copied == current.keys():
            return
        new = [weight.path for key, weight in current.items() if key not in copied]
        raise ValueError(
            "The encoder must keep the weights that it had when ContrastiveModel(..., momentum=...) copied them. "
            f"Received: {len(new)} new weights, such as {new[:3]}, and {len(copied - current.keys())} fewer. Build, "
            "quantize and enable LoRA first, then create the ContrastiveModel."
        )


@dataclass(frozen=True)  # not a list: Keras would track the encoder's layers and weights as this layer's
class _Queries:
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
