"""Checks of the input of `ContrastiveModel`: arguments, data, outputs of encoders."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import keras
import tensorflow as tf

from keras_tfcl import losses
from keras_tfcl.ops.replicas import several_workers
from keras_tfcl.typing import Augmenter, Loss, Structure
from keras_tfcl.validation import positive_integer


def check_memory(momentum: object, queue_size: object, queue: str) -> None:
    """Raises ValueError for a momentum or queue that is out of range, and where one of them needs the other."""
    if momentum is not None and (
        isinstance(momentum, bool) or not isinstance(momentum, Real) or not 0 <= float(momentum) < 1
    ):
        raise ValueError(
            f"`momentum` must be a number in [0, 1), or None. Received: momentum={momentum!r}. MoCo uses 0.999."
        )
    positive_integer("queue_size", queue_size, "0 means no queue.", least=0)
    if queue not in ("keys", "instances"):
        raise ValueError(
            f"`queue` must be 'keys' or 'instances'. Received: queue={queue!r}. Pass 'keys' for MoCo, or 'instances' "
            "for an instance bank with one slot for each sample."
        )
    if queue_size and momentum is None:
        raise ValueError(
            f"A queue needs a momentum, because keys of a quickly changing encoder are inconsistent. Received: "
            f"queue_size={queue_size}, momentum=None. Pass momentum=0.999, or for queue='instances' momentum=0.5."
        )
    if queue == "instances" and not queue_size:
        raise ValueError(
            "queue='instances' needs the number of samples. Received: queue_size=0. Pass queue_size=len(x)."
        )


def check_towers(
    encoder: keras.Model | tuple[keras.Model, ...], projector: keras.Layer | tuple[keras.Layer, ...] | None
) -> None:
    """Raises ValueError unless both are Keras layers, or tuples of them with one for each view."""
    several = isinstance(encoder, tuple)
    if several and len(encoder) < 2:
        raise ValueError(
            f"A tuple of encoders must hold one for each view, at least two. Received: {len(encoder)}. For one encoder "
            "of all views, pass the encoder itself."
        )
    if isinstance(projector, tuple) and (not several or len(projector) != len(encoder)):
        expected = len(encoder) if several else "one encoder"
        raise ValueError(
            f"A tuple of projectors must hold one for each encoder. Received: {len(projector)} projectors for "
            f"{expected}. Pass one projector to share it."
        )
    for part in encoder if several else (encoder,):
        if not isinstance(part, keras.Layer):
            raise ValueError(f"`encoder` must be a Keras model. Received: {part!r}. Wrap a function in a keras.Model.")
    for part in projector if isinstance(projector, tuple) else (projector,):
        if part is not None and not isinstance(part, keras.Layer):
            raise ValueError(f"`projector` must be a Keras model or layer. Received: {part!r}. Pass a ProjectionHead.")


def check_views(views: int, encoders: int, augmenter: Augmenter | None, supervised: bool, queue: str) -> None:
    """Raises ValueError for views that the encoders cannot take, or without a positive for any sample."""
    positive_integer("views", views, "Two is usual.")
    if encoders > 1 and (views != encoders or augmenter is not None):
        raise ValueError(
            f"{encoders} encoders take ready-made pairs, one view for each encoder. Received: views={views}, "
            f"augmenter={augmenter!r}. Pass views={encoders} and no augmenter; augment in tf.data. All {encoders} "
            "inputs of a sample are then positives of one another: none of them can be its negative."
        )
    if views == 1 and not supervised and queue != "instances":
        raise ValueError(
            "With one view and no labels, no sample has a positive. Received: views=1, supervised=False. "
            "Use views=2, or supervised=True."
        )
    if supervised and queue == "instances":
        raise ValueError(
            "In an instance bank the positive of a sample is its own slot, not its label. Received: queue='instances', "
            "supervised=True. Use queue='keys' with labels."
        )


def checked_seed(seed: object) -> int:
    """The seed, or a random one.

    Raises:
        ValueError: for a seed that is no integer, and where each of several workers would draw its own.
    """
    if not isinstance(seed, bool) and isinstance(seed, Integral):
        return int(seed)
    if seed is not None:
        raise ValueError(f"`seed` must be an integer, or None. Received: seed={seed!r}. Pass seed=0.")
    if several_workers():
        raise ValueError(
            "Several workers need the same seed, or each would shuffle in its own order. Received: seed=None. "
            "Pass seed=0."
        )
    return random.randint(1, 10**9)


def checked_loss(loss: Loss | Mapping[str, object] | None, with_candidates: bool) -> keras.losses.Loss:
    """Returns the loss of the projections; raises ValueError for several losses, and for a loss that cannot train.

    Args:
        loss: of `ContrastiveModel.compile`.
        with_candidates: whether it will be given candidates to compare with.
    """
    if isinstance(loss, (list, tuple)) or (isinstance(loss, dict) and "class_name" not in loss):
        raise ValueError(
            f"`loss` must be one loss of the projections. Received: a {type(loss).__name__} of {len(loss)}. Add them "
            "in a loss of your own: subclass keras_tfcl.losses.EmbeddingLoss."
        )
    found = losses.get(loss)
    if found.reduction in (None, "none"):
        raise ValueError(
            "Training needs one number for a batch. Received: a loss with reduction=None. Leave reduction at "
            "'sum_over_batch_size', or use 'sum'."
        )
    if with_candidates and not isinstance(found, losses.EmbeddingLoss):
        raise ValueError(
            "Momentum, queues and replicas need a loss that compares embeddings with given candidates, a "
            f"keras_tfcl.losses.EmbeddingLoss. Received: {type(found).__name__}. Use for example ArctanhInfoNCE(), or "
            "subclass EmbeddingLoss."
        )
    return found


def check_compiled(compiled: bool, method: str) -> None:
    """Raises ValueError for a model that is not compiled."""
    if not compiled:
        raise ValueError(
            f"`compile` must be called before `{method}`. Received: a model that is not compiled. Call for example "
            'model.compile("adam", loss=keras_tfcl.InfoNCE(0.1)).'
        )


def check_trainable(model: keras.Model) -> None:
    """Raises ValueError for a model without anything to train."""
    if not model.trainable_variables:
        raise ValueError(
            "Training needs a weight to train. Received: a model whose layers are all frozen. Set `trainable = True` "
            "on the encoder or give the model a projector, and call `compile` again."
        )


def check_class_weight(class_weight: Mapping[int, float] | None, y: object, sample_weight: object, queue: str) -> None:
    """Raises ValueError where `class_weight` has no class labels, or cannot be combined with other weights."""
    if class_weight is None:
        return
    if not isinstance(class_weight, Mapping) or not all(map(_is_class_weight, class_weight.items())):
        raise ValueError(
            "`class_weight` must be a dict from integer class labels to finite weights of at least 0. Received: "
            f"class_weight={class_weight!r}. Pass for example class_weight={{0: 1.0, 1: 2.0}}; classes that are left "
            "out weigh 1."
        )
    if queue == "instances":
        raise ValueError(
            "`class_weight` needs class labels, but with queue='instances' y holds the numbers of the samples. "
            "Received: class_weight. Pass sample_weight, one weight for each sample."
        )
    if y is None:
        raise ValueError(
            "`class_weight` needs class labels. Received: class_weight and data without y. Pass y too; without "
            "supervised=True it does not change which samples are positives."
        )
    if sample_weight is not None:
        raise ValueError("Pass either class_weight or sample_weight. Received: both. Multiply them into sample_weight.")


def _is_class_weight(item: tuple[object, object]) -> bool:
    label, weight = item
    return isinstance(label, Integral) and isinstance(weight, Real) and math.isfinite(weight) and float(weight) >= 0


def check_replicas(replicas: int, built: bool, jit_compile: bool | str | None, steps_per_execution: int = 1) -> None:
    """Raises ValueError for settings that several replicas cannot train with."""
    if steps_per_execution != 1:
        raise ValueError(
            "TensorFlow cannot run several steps of several replicas in one execution. Received: "
            f"steps_per_execution={steps_per_execution} under a strategy of {replicas} replicas. Leave "
            "steps_per_execution at 1."
        )
    if not built:
        raise ValueError(
            f"On several replicas the encoder must know its inputs beforehand. Received: {replicas} replicas and an "
            "encoder that is not built. Begin a Sequential with keras.Input, or wrap the encoder: x = "
            "keras.Input(shape); keras.Model(x, encoder(x))."
        )
    if jit_compile is True:
        raise ValueError(
            "XLA cannot compile a step of several replicas. Received: jit_compile=True under a strategy of "
            f"{replicas} replicas. Leave jit_compile at 'auto', which is off there."
        )


def check_labels(y: Structure | None, supervised: bool) -> None:
    """Raises ValueError if labels must come from y but there is no y."""
    if isinstance(y, (Mapping, tuple, list)):
        raise ValueError(
            f"The labels must be one array. Received: a {type(y).__name__} of {len(y)} arrays as y. Pass the one that "
            "decides who is positive."
        )
    if y is not None:
        return
    if supervised:
        raise ValueError(
            "supervised=True takes positives from the labels. Received: data without y. "
            "Pass fit(x, y), or a dataset of (x, y)."
        )
    raise ValueError(
        "queue='instances' takes the number of each sample, 0 to queue_size - 1, as y. Received: data without y. "
        "Pass a dataset of (x, number), for example from Dataset.enumerate(). Arrays are numbered automatically."
    )


def check_no_split(arguments: Mapping[str, object]) -> None:
    """Raises ValueError for a `validation_split` among the arguments of `fit`."""
    if arguments.get("validation_split"):
        raise ValueError(
            "`fit` cannot split off validation data. Received: validation_split="
            f"{arguments['validation_split']!r}. Split x yourself: fit(x[:n], validation_data=x[n:])."
        )


def check_several_views(views: int, instance_bank: bool = False) -> None:
    """Raises ValueError for a single view without labels, in a step that does not use an instance bank."""
    if views >= 2:
        return
    if instance_bank:
        raise ValueError(
            "`evaluate` and `validation_data` compare the views of a batch with one another, because the instance bank "
            "has no slots for their samples. Received: data with one view of each sample. Pass ready-made views, "
            "validation_data=((view_1, view_2),); or leave it out and use a callback such as KNNEvaluation."
        )
    raise ValueError(
        "Without labels, the positives of a sample are its other views. Received: data with one view of each "
        "sample. Pass two views, x=(view_1, view_2), or use supervised=True with labels."
    )


def check_tuple(x: Structure, encoders: int) -> None:
    """Raises ValueError unless x is a tuple of views, with several encoders one for each."""
    if encoders > 1 and (not isinstance(x, tuple) or len(x) != encoders):
        received = f"a tuple of {len(x)}" if isinstance(x, tuple) else "a single input"
        raise ValueError(
            f"A model of {encoders} encoders takes a tuple with one input for each. Received: {received}. Pass "
            "x=(a, b), in a tf.data element ((a, b),); for one input alone use model.encoders[0] or [1]."
        )


def check_output(shape: tf.TensorShape | Sequence[int | None], owner: str) -> None:
    """Raises ValueError unless an output's shape is `(B, F)`."""
    if isinstance(shape, (tuple, list)) and len(shape) == 2 and isinstance(shape[-1], int):
        return
    if hasattr(shape, "rank") and shape.rank == 2 and shape[-1] is not None:
        return
    raise ValueError(
        f"The {owner} must return one vector for each sample, shape (B, F). Received: output {shape}. "
        "End it with global pooling, Flatten or Dense, with one output."
    )


def check_widths(widths: list[int]) -> None:
    """Raises ValueError unless all projections have one size."""
    if len(set(widths)) > 1:
        raise ValueError(
            f"All encoders must have projections of the same size. Received: sizes {widths}. Give each a projector "
            "that ends in the same size: projector=(ProjectionHead((256, 128)), ProjectionHead((256, 128)))."
        )
