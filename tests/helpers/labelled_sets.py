"""Vectors and labels `((x, y), (x, y))` for training and for validation."""

import numpy as np


def sets_by_direction():
    """Four classes of vectors of all lengths: the label follows the direction, as cosines see it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6)).astype("float32") * rng.uniform(0.1, 50, (60, 1)).astype("float32")
    labels = (x[:, 0] > 0).astype("int64") + 2 * (x[:, 1] > 0)
    return (x[:40], labels[:40]), (x[40:], labels[40:])


def sets_by_scale():
    """Three classes with noise, whose features have scales from 0.1 to 100."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 5)).astype("float32") * [1, 10, 100, 1, 0.1] + 3
    noisy = x / [1, 10, 100, 1, 0.1] + rng.normal(size=x.shape)
    labels = 7 + (noisy[:, 0] > 3).astype("int64") + (noisy[:, 1] > 3)
    return (x[:60].astype("float32"), labels[:60]), (x[60:].astype("float32"), labels[60:])
