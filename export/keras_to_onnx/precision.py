"""Let a model of another precision compute in float32 while it is exported.

Each layer keeps its weights and gets the policy float32 for the time of the export, so that a model trained in mixed
precision gives a file that runs everywhere. Rebuilding it from its configuration would lose what no configuration
holds, and would not do for a subclassed model without one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from keras_tfcl._keras_compat import dtype_policy, set_dtype_policy, set_variable_dtype
from keras_tfcl.export.runtime.requirements import require

HALF = ("float16", "bfloat16")
_LOCK = threading.RLock()  # the policies belong to the model, the switches of the trace to the whole process


class Precision:
    """The layers of a model that compute in half precision, with the policies they were built with."""

    def __init__(self, layers: Iterable[Any]) -> None:
        self._own = [(layer, dtype_policy(layer)) for layer in layers if layer.compute_dtype in HALF]

    @property
    def policies(self) -> list[str]:
        """Names such as "mixed_float16"; none for a model that computes in float32."""
        return sorted({policy.name for _, policy in self._own})

    def use_float32(self) -> None:
        for layer, _ in self._own:
            set_dtype_policy(layer, _in_float32(layer))

    def use_own(self) -> None:
        for layer, policy in self._own:
            set_dtype_policy(layer, policy)


@contextlib.contextmanager
def computing_in_float32(layers: Iterable[Any]) -> Iterator[Precision]:
    """Make half-precision layers compute in float32 inside the block. Other threads wait until it ends."""
    with _LOCK:
        precision = Precision(layers)
        try:
            precision.use_float32()
            yield precision
        finally:
            precision.use_own()


@contextlib.contextmanager
def computing_as_built(precision: Precision) -> Iterator[None]:
    """Undo `computing_in_float32` inside the block."""
    precision.use_own()
    try:
        yield
    finally:
        precision.use_float32()


def _in_float32(layer: Any) -> Any:
    get = require("keras", "tf").dtype_policies.get
    policy = get(f"{layer.quantization_mode}_from_float32" if layer.quantization_mode else "float32")
    set_variable_dtype(policy, layer.variable_dtype)  # so that Keras casts the weights of a policy such as float16
    return policy
