"""Sequential recommendation: SASRec as one of two towers, so that the contrastive loss in the batch is the recommender.

    python examples/benchmarks/sequential_recommendation.py train --datasets ML-100K       # then: test

A user is what a causal transformer makes of the latest items, an item its embedding, and the next item is the nearest.
Needs `pip install --no-deps recbole==1.2.1` for ML-100K, and sequences/Beauty.txt in the folder that KERAS_TFCL_DATA
names for Amazon Beauty. Reference: Kang and McAuley 2018, arXiv 1808.09781.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from harness import Metrics, Task, Trained, main
from keras import layers, ops
from sequences import beauty_file, by_popularity, load, movielens_file, next_item_metrics, padded, windows

import keras_tfcl

DIMENSION, BLOCKS, HEADS, DROPOUT, LEARNING_RATE = 64, 1, 2, 0.2, 3e-3
TINY = 64  # users


class Budget(NamedTuple):
    """What training of a data set costs."""

    length: int  # of the windows
    windows: int  # in a batch
    epochs: int


BUDGETS = {"ML-100K": Budget(50, 16, 5), "Beauty": Budget(20, 128, 5)}
FILES = {"ML-100K": movielens_file, "Beauty": beauty_file}


class SequentialRecommendation(Task):
    name = "sequential_recommendation"
    metric = "hit_rate@10"

    def __init__(self) -> None:
        self.datasets = tuple(available())

    def dimension(self, dataset: str) -> int:
        return DIMENSION

    def loss_keywords(self, dataset: str) -> dict[str, object]:
        """Users are compared with items; padding is 0; an item that is in the batch twice is no negative of itself."""
        return {"roles": ("anchor", "positive"), "ignore_class": 0, "same_label": "ignore"}

    def train(self, dataset: str, loss: keras.losses.Loss, seed: int, tiny: bool) -> Trained:
        histories, budget = load(dataset), BUDGETS[dataset]
        users = TINY if tiny else len(histories.users)
        user_tower, item_tower = towers(histories.items, budget.length)
        model = keras_tfcl.ContrastiveModel((user_tower, item_tower), supervised=True, seed=seed)
        model.compile(keras.optimizers.Adam(LEARNING_RATE), loss)
        trained_on = windows(histories.before("validation")[:users], budget.length)
        model.fit(batches(*trained_on, budget.windows, seed), epochs=1 if tiny else budget.epochs, verbose=0)
        outputs = {
            "items": embedded(item_tower, np.arange(1, histories.items + 1)[:, None]),
            "users": latest(user_tower, padded(histories.before("validation")[:users], budget.length)),
            "test_users": latest(user_tower, padded(histories.before("test")[:users], budget.length)),
        }
        return Trained(outputs, outputs["users"], None)

    def validate(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        return next_item_metrics(load(dataset), "validation", outputs["users"], outputs["items"])

    def test(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        return next_item_metrics(load(dataset), "test", outputs["test_users"], outputs["items"])

    def baselines(self, dataset: str, tiny: bool) -> dict[str, Metrics]:
        histories, length = load(dataset), BUDGETS[dataset].length
        users = TINY if tiny else len(histories.users)
        taste, items = by_popularity(histories)
        keras.utils.set_random_seed(0)
        user_tower, item_tower = towers(histories.items, length)
        untrained = latest(user_tower, padded(histories.before("test")[:users], length))
        vectors = embedded(item_tower, np.arange(1, histories.items + 1)[:, None])
        return {
            "popularity": next_item_metrics(histories, "test", np.repeat(taste, users, axis=0), items),
            "untrained": next_item_metrics(histories, "test", untrained, vectors),
        }


def available() -> list[str]:
    """The data sets whose files are here; the others are named."""
    found = []
    for name, file in FILES.items():
        try:
            file()
            found.append(name)
        except FileNotFoundError as missing:
            print(f"{name} is left out: {missing}", flush=True)
    return found


def towers(items: int, length: int) -> tuple[keras.Model, keras.Model]:
    """A tower for users and one for items, which share the embeddings of the items.

    The user tower takes one item a row, `(B, 1)`; `length` rows in turn are one history. It returns what is known of
    the user at each of them, `(B, 64)`, so that all moments of a history are trained at once.
    """
    embedding = layers.Embedding(items + 1, DIMENSION, name="items")
    item = keras.Input((1,), dtype="int32")
    item_tower = keras.Model(item, ops.squeeze(embedding(item), 1), name="item_tower")

    history = keras.Input((1,), dtype="int32")
    rows = ops.reshape(history, (-1, length))
    x = embedding(rows) * DIMENSION**0.5
    x = x + layers.Embedding(length, DIMENSION, name="positions")(ops.cumsum(ops.ones_like(rows), axis=1) - 1)
    x = layers.Dropout(DROPOUT)(x)
    for _ in range(BLOCKS):
        h = layers.LayerNormalization()(x)
        h = layers.MultiHeadAttention(HEADS, DIMENSION // HEADS)(h, h, use_causal_mask=True)
        x = x + layers.Dropout(DROPOUT)(h)  # padding follows the items, so that no item attends to it
        h = layers.Dense(DIMENSION, activation="relu")(layers.LayerNormalization()(x))
        x = x + layers.Dropout(DROPOUT)(layers.Dense(DIMENSION)(layers.Dropout(DROPOUT)(h)))
    x = layers.LayerNormalization()(x)
    user_tower = keras.Model(history, ops.reshape(x, (-1, DIMENSION)), name="user_tower")
    return user_tower, item_tower


def batches(items: np.ndarray, targets: np.ndarray, size: int, seed: int) -> tf.data.Dataset:
    """Batches `((items, targets), labels)` of `size` windows in random order; the label of a target is its number."""
    data = tf.data.Dataset.from_tensor_slices((items, targets)).shuffle(len(items), seed)
    return data.batch(min(size, len(items)), drop_remainder=True).map(
        lambda x, y: ((tf.reshape(x, (-1, 1)), tf.reshape(y, (-1, 1))), tf.reshape(y, (-1,)))
    )


def latest(user_tower: keras.Model, histories: np.ndarray) -> np.ndarray:
    """float16 `(U, 64)`, L2-normalised: each user after the last item of a padded history `(U, length)`."""
    length = histories.shape[1]
    states = user_tower.predict(histories.reshape(-1, 1), batch_size=256 * length, verbose=0)
    last = np.count_nonzero(histories, axis=1) - 1
    return unit(states.reshape(-1, length, DIMENSION)[np.arange(len(histories)), last])


def embedded(item_tower: keras.Model, items: np.ndarray) -> np.ndarray:
    return unit(item_tower.predict(items, batch_size=4096, verbose=0))


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float16")


if __name__ == "__main__":
    main(SequentialRecommendation())
