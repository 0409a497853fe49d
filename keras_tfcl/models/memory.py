"""The candidates that a batch is compared with; in the simplest case, the batch itself."""

from __future__ import annotations

from typing import Protocol

from keras_tfcl.ops import replicas
from keras_tfcl.ops.candidates import Candidates, batch_candidates
from keras_tfcl.typing import Structure, Tensor


class Memory(Protocol):
    """The interface of `InBatch`, `MomentumKeys` and `InstanceBank`."""

    def begin(self) -> None:
        """Prepares the memory for training or evaluation, each time before one of them starts."""

    def candidates(
        self, labels: Tensor, z: Tensor, views: tuple[Structure, ...] | None, training: bool
    ) -> Candidates | None:
        """Returns the candidates of a batch; None means the batch itself and nothing else.

        Args:
            labels: integer `(B,)`, of this replica's samples.
            z: their projections `(B, V, D)`.
            views: the tuple of V views that z was made of. On replicas it holds at least one sample.
            training: False in `evaluate` and validation.
        """

    def update(self, labels: Tensor, z: Tensor, candidates: Candidates | None) -> None:
        """Stores a batch after the weights were updated. It receives the arguments and the result of `candidates`."""

    def check_batch(self, size: int | None, views: int) -> None:
        """Raises ValueError for a batch of `size` samples (None: not known yet) that the memory cannot hold."""


class InBatch:
    """No memory: a batch is compared with itself, and on several replicas with the batches of all."""

    def begin(self) -> None:
        """Does nothing."""

    def candidates(
        self, labels: Tensor, z: Tensor, views: tuple[Structure, ...] | None, training: bool
    ) -> Candidates | None:
        """None on one device; the embeddings of all replicas on several."""
        return None if replicas.replica_count() == 1 else batch_candidates(labels, z)

    def update(self, labels: Tensor, z: Tensor, candidates: Candidates | None) -> None:
        """Does nothing."""

    def check_batch(self, size: int | None, views: int) -> None:
        """Accepts any batch."""
