"""Synthetic input rows that any machine can make again from a few numbers.

The numbers go into the file's metadata, so that a server can repeat the comparison of the export on its own hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_MAX_BYTES = 1 << 28  # what a file from elsewhere may make a reader allocate


@dataclass(frozen=True)
class Generator:
    """Uniform values in [low, high) of one input; a row of integers begins with 1, so that it is not padding alone.

    `RandomState` is used because NumPy froze its stream: all versions give the same numbers (NEP 19).
    """

    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float
    seed: int

    def rows(self) -> np.ndarray:
        """Return the rows, an array of `shape` and `dtype`."""
        generator = np.random.RandomState(self.seed)
        if np.dtype(self.dtype).kind == "f":
            return generator.uniform(self.low, self.high, self.shape).astype(self.dtype)
        rows = generator.randint(int(self.low), int(self.high), self.shape)
        if rows.ndim > 1:
            rows[:, :1] = min(1, int(self.high) - 1)
        return rows.astype(self.dtype)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Generator:
        """Read what `to_dict` wrote.

        Raises:
            ValueError, TypeError, KeyError: it is something else, or asks for more than 256 MiB.
        """
        shape = tuple(int(size) for size in content["shape"])
        dtype = np.dtype(str(content["dtype"]))
        if dtype.kind not in "biuf" or len(shape) > 8 or min(shape, default=0) < 1:
            raise ValueError(f"rows of shape {shape} and dtype {dtype}")
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size > _MAX_BYTES:
            raise ValueError(f"rows of {size} bytes")
        return cls(dtype.name, shape, float(content["low"]), float(content["high"]), int(content["seed"]))
