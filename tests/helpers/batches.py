import numpy as np


def vectors(samples=24, features=6, seed=0):
    """Samples `(B, features)` in float32."""
    return np.random.default_rng(seed).normal(size=(samples, features)).astype("float32")


def views(samples=24, features=6, count=2, noise=0.1, seed=0):
    """A tuple of `count` ready-made views `(B, features)`: the same samples, each with noise of its own."""
    generator, x = np.random.default_rng(seed + 1), vectors(samples, features, seed)
    return tuple(x + noise * generator.normal(size=x.shape).astype("float32") for _ in range(count))


def images(samples=48, shape=(8, 8, 1), seed=0):
    """Images `(B, *shape)` in uint8."""
    return np.random.default_rng(seed).integers(0, 256, (samples, *shape), "uint8")


def embeddings(samples=8, count=2, dimensions=4, seed=0, dtype="float32"):
    """Embeddings `(B, V, D)`, not normalised; `count=1` gives `(B, D)`."""
    shape = (samples, dimensions) if count == 1 else (samples, count, dimensions)
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def unit(x):
    """The vectors along the last axis, divided by their lengths."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
