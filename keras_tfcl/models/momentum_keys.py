from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from keras_tfcl.models.key_encoder import KeyEncoder
from keras_tfcl.models.key_queue import KeyQueue
from keras_tfcl.ops.candidates import Candidates, batch_candidates
from keras_tfcl.typing import Structure, Tensor


class MomentumKeys(keras.layers.Layer):
    """The memory of MoCo: views are compared with the keys of a key encoder and with a queue of earlier keys.

    Args:
        networks: functional models from views to projections, which the key encoder averages.
        momentum: m, in [0, 1).
        queue_size: number of keys of earlier steps; 0 for none (MoCo v3).
        labelled: whether labels are class labels, so that keys of earlier steps can be positives.
        slice_size: largest number of samples that the key encoder sees at a time, or None.
        **kwargs: of `keras.layers.Layer`.

    References: He et al. 2020 (MoCo), arXiv 1911.05722; Chen et al. 2021 (MoCo v3), arXiv 2104.02057.
    """

    def __init__(
        self,
        networks: Sequence[keras.Model],
        momentum: float,
        queue_size: int,
        labelled: bool,
        slice_size: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.labelled = labelled
        self.key_encoder = KeyEncoder(networks, momentum, slice_size)
        self.queue = KeyQueue(queue_size, networks[0].output_shape[-1]) if queue_size else None
        # Whether an average was made. A weight, so that it comes with the others, whichever way they are set.
        self.begun = self.add_weight(
            name="begun",
            shape=(),
            dtype="bool",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        self.built = True

    def begin(self) -> None:
        """Starts the key encoder as a copy of the encoder, unless it holds an average."""
        if not self.begun.numpy():
            self.key_encoder.copy_weights()

    def candidates(self, labels: Tensor, z: Tensor, views: tuple[Structure, ...], training: bool) -> Candidates:
        """The keys of the batches of all replicas, followed by the keys of the queue."""
        if training:  # the batches of a PyDataset or generator were not checked before
            self.check_batch(None, len(views))
        keys = self.key_encoder(views, training=training)[: ops.shape(z)[0]]  # (B, V, D)
        batch = batch_candidates(labels, keys)
        return batch if self.queue is None else batch.concat(self.queue.candidates(len(views)))

    def update(self, labels: Tensor, z: Tensor, candidates: Candidates) -> None:
        """Updates the key encoder, and pushes the keys of the batch into the queue."""
        self.key_encoder.update()
        self.begun.assign(True)
        if self.queue is not None:
            count = ops.shape(candidates.embeddings)[0] - self.queue.size
            labels = candidates.labels[:count]
            # Without class labels, keys of earlier steps are never positives: -1 matches no row number.
            self.queue.push(candidates.embeddings[:count], labels if self.labelled else -ops.ones_like(labels))

    def check_batch(self, size: int | None, views: int) -> None:
        """Raises ValueError unless the queue holds a whole number of batches."""
        if self.queue is not None:
            self.queue.check_batch(size, views)
