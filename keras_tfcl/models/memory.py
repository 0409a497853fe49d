"""What a model remembers of earlier steps, from the arguments of `ContrastiveModel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras

from keras_tfcl.models.instance_bank import InstanceBank
from keras_tfcl.models.key_encoder import KeyEncoder
from keras_tfcl.models.key_queue import KeyQueue


class Memory(NamedTuple):
    """The parts that a choice of `momentum`, `queue_size` and `queue` asks for."""

    key_encoder: KeyEncoder | None = None
    key_queue: KeyQueue | None = None
    instance_bank: InstanceBank | None = None


def make_memory(
    networks: Sequence[keras.Model], momentum: float, queue_size: int, queue: str, rows: int | None
) -> Memory:
    """Makes the parts.

    Args:
        networks: functional models from views to projections `(B, D)`.
        momentum, queue_size, queue: checked, of `ContrastiveModel`.
        rows: its `encoder_batch_size`.
    """
    features = networks[0].output_shape[-1]
    if queue == "instances":
        return Memory(instance_bank=InstanceBank(queue_size, features, momentum))
    return Memory(KeyEncoder(networks, momentum, rows), KeyQueue(queue_size, features) if queue_size else None)
