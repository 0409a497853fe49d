"""Random seeds of layers, which Keras itself neither saves nor loads."""

from __future__ import annotations

import keras

from keras_tfcl.typing import TensorLike, WeightStore

PREFIX = "seed_"


def save_seeds(model: keras.Model, store: WeightStore) -> None:
    """Writes the state of every seed generator of the model's layers (dropout, noise) into a store of Keras' saving."""
    for i, seed in enumerate(_seeds(model)):
        store[f"{PREFIX}{i}"] = seed


def load_seeds(model: keras.Model, store: WeightStore) -> dict[str, TensorLike]:
    """Restores the seeds that `save_seeds` wrote, and returns the rest of the store.

    A file without seeds, or with seeds of another number of layers, does not change the model's seeds.
    """
    seeds = _seeds(model)
    names = [name for name in store.keys() if name.startswith(PREFIX)]
    if len(names) == len(seeds):
        for i, seed in enumerate(seeds):
            seed.assign(store[f"{PREFIX}{i}"])
    return {name: store[name] for name in store.keys() if name not in names}


def _seeds(model: keras.Model) -> list[keras.Variable]:
    return [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
