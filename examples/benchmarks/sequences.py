"""Histories of users in the order of time, split so that each user's last two items are never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from harness import DATA
from packages import installed_file

from keras_tfcl.evaluation import retrieval

CUTOFFS = (1, 10, 20)


class Histories(NamedTuple):
    """What each of U users interacted with.

    Attributes:
        users: an integer array for each, its items from 1 to `items`, oldest first.
        items: how many items there are.
    """

    users: list[np.ndarray]
    items: int

    def before(self, part: str) -> list[np.ndarray]:
        """What may be known: before the last item but one for `"validation"`, before the last for `"test"`."""
        return [user[: -held_out(part)] for user in self.users]

    def next_item(self, part: str) -> np.ndarray:
        """`(U,)`, what came then."""
        return np.array([user[-held_out(part)] for user in self.users])

    def popularity(self) -> np.ndarray:
        """`(items,)`, how often each item is in the training part of the histories."""
        return np.bincount(np.concatenate(self.before("validation")), minlength=self.items + 1)[1:]


def held_out(part: str) -> int:
    """How many items at the end of a history are not known."""
    return {"validation": 2, "test": 1}[part]


@cache
def load(name: str) -> Histories:
    """`"ML-100K"` or `"Beauty"`, users with at least four items."""
    users = movielens(movielens_file()) if name == "ML-100K" else lines(beauty_file())
    users = [user for user in users if len(user) >= 4]
    return Histories(users, int(max(user.max() for user in users)))


def movielens_file() -> Path:
    """ML-100K, as the package recbole ships it."""
    return installed_file("recbole", "1.2.1", "ml-100k.inter")


def beauty_file() -> Path:
    """Amazon Beauty, 5-core, in the file of S3-Rec's authors: `user item item ...`, oldest first."""
    path = DATA / "sequences" / "Beauty.txt"
    if not path.exists():
        raise FileNotFoundError(f"{path} must hold Amazon Beauty. Received: no such file. Set KERAS_TFCL_DATA.")
    return path


def movielens(path: Path) -> list[np.ndarray]:
    """Reads `user item rating timestamp`; what has one timestamp stays in the order of the file."""
    rows = np.loadtxt(path, skiprows=1, dtype="float64").astype("int64")
    rows = rows[np.lexsort((np.arange(len(rows)), rows[:, 3], rows[:, 0]))]
    starts = np.flatnonzero(np.diff(rows[:, 0])) + 1
    return np.split(rows[:, 1], starts)


def lines(path: Path) -> list[np.ndarray]:
    return [np.array(line.split()[1:], "int64") for line in path.read_text().splitlines()]


def padded(histories: Sequence[np.ndarray], length: int) -> np.ndarray:
    """The latest items of each history, int32 `(U, length)`, followed by zeros."""
    rows = np.zeros((len(histories), length), "int32")
    for row, history in zip(rows, histories, strict=True):
        latest = history[-length:]
        row[: len(latest)] = latest
    return rows


def windows(histories: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts histories into windows, and shifts them by one item.

    Returns:
        Items and the item that came after each, int32 `(W, length)` both, followed by zeros. Every item but the first
        of a history is a target once.
    """
    pieces = []
    for history in histories:
        for end in range(len(history), 1, -length):
            pieces.append(history[max(0, end - length - 1) : end])
    return padded([piece[:-1] for piece in pieces], length), padded([piece[1:] for piece in pieces], length)


def next_item_metrics(histories: Histories, part: str, users: np.ndarray, items: np.ndarray) -> dict[str, float]:
    """Ranks all items that a user has not seen by their cosine with the user.

    Args:
        histories: of the first users, or of all.
        part: `"validation"` or `"test"`.
        users: `(U, D)`.
        items: `(items, D)`, item 1 first.
    """
    known, relevant = histories.before(part)[: len(users)], histories.next_item(part)[: len(users)]
    # A few sets, ML-100K among them, could repeat an item, which then must not be excluded.
    seen = [np.setdiff1d(items_known, [item]) - 1 for items_known, item in zip(known, relevant, strict=True)]
    found = retrieval(users, items, relevant - 1, exclude=seen, k=CUTOFFS)
    return {f"{name}@{k}": found[f"{name}@{k}"] for k in CUTOFFS for name in ("hit_rate", "ndcg")} | {
        "mrr": found["mrr"]
    }


def by_popularity(histories: Histories) -> tuple[np.ndarray, np.ndarray]:
    """One user vector and an item vector for each item, whose cosines rank items by popularity."""
    share = histories.popularity() / histories.popularity().max()
    return np.array([[1.0, 0.0]]), np.stack([share, np.sqrt(1 - share**2)], axis=1)
