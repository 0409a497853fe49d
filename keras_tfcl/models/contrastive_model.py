from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_tfcl import losses as losses_module
from keras_tfcl._keras_compat import builds_from_one_replica, nested_layers
from keras_tfcl.data.views import ViewPipeline, brings_batches, row_count
from keras_tfcl.models.checks import (
    check_loss_compares,
    check_memory,
    check_no_split,
    check_replicas,
    check_several_views,
    checked_seed,
    checked_views,
)
from keras_tfcl.models.compile_arguments import scaled_optimizer, split_metrics
from keras_tfcl.models.embedder import joined_network
from keras_tfcl.models.epoch_start import EpochStart
from keras_tfcl.models.memory import make_memory
from keras_tfcl.models.seed_state import load_seeds, save_seeds
from keras_tfcl.models.stop_on_non_finite import StopOnNonFinite
from keras_tfcl.models.training_step import TrainingStep
from keras_tfcl.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_tfcl")
@builds_from_one_replica  # `compile` asks for a built model where there are several
class ContrastiveModel(TrainingStep):
    """Trains an encoder with a contrastive loss, through Keras' own `compile`, `fit`, `evaluate`, `predict` and `save`.

    In training each instance becomes V views (made by `augmenter` in the input pipeline, or given), each view a feature
    vector of the encoder and a projection of it; the loss sees the projections `(B, V, D)` with the row numbers of the
    batch, or with `supervised=True` the given labels. `predict` gives the encoder's features, L2-normalised, without
    the projector; with several encoders it takes a tuple and gives one. `model.encoder` is the trained encoder itself.

    Under `tf.distribute` (made and compiled in a strategy's scope) embeddings of all replicas are compared, as if one
    device had the whole batch.

    Args:
        encoder: any Keras model from a batch of instances to features `(B, F)`; or a tuple of V of them, one for each
            view (image and text, query and document): then x is a tuple of what they take.
        projector: model or layer from `(B, F)` to `(B, D)` used in training only, such as
            `keras_tfcl.ProjectionHead((256, 128))`; with several encoders one to share, or a tuple. Defaults to None:
            the loss sees the features.
        augmenter: function from a batch of instances to a batch with one random view of each, such as
            `keras_tfcl.layers.image_augmenter("photos", (32, 32, 3))`. Needed unless the data holds ready-made views.
        views: number of views of each instance. Defaults to 2.
        supervised: take `y` as labels, so that instances of one label are positives. Defaults to False: only the views
            of one instance are. Labels that are given all the same go to the metrics.
        seed: integer that fixes order and views. Defaults to a random one, drawn from Python's generator (so
            `keras.utils.set_random_seed` fixes it) and kept when the model is saved.
        momentum: number in [0, 1), usually 0.99 to 0.999: views are compared with keys, the projections of the other
            views by a copy of encoder and projector that follows them, `copy <- m * copy + (1 - m) * encoder` after
            each step (MoCo). Defaults to None: no copy, views are compared with one another.
        queue_size: number of keys of earlier steps to compare with, too, a multiple of batch size * views. Defaults
            to 0.
        queue: `"keys"`, the default; or `"instances"`: a memory bank of `queue_size` embeddings, one for each instance
            of the data, each a moving average with `momentum` (0.5 is usual); no encoder is copied.
        encoder_batch_size: largest number of views that the encoder sees at a time in training: a contrastive batch
            larger than its memory, with the exact gradient, for about a third more time (gradient caching). Batch
            normalisation in the encoder then uses the statistics of each slice. Defaults to None: all at once.
        **kwargs: of `keras.Model`.

    What `fit`, `evaluate` and `validation_data` take as x:
        an array, tensor or dict of them: instances, one a row;
        a tuple of V arrays: ready-made views (in `validation_data`: `((view_1, view_2),)` or `((view_1, view_2), y)`);
        a `tf.data.Dataset`, `PyDataset` or generator of batches `x`, `(x, y)`, `((view_1, ..., view_V),)` or
        `((view_1, ..., view_V), y)`, each with an optional `sample_weight` after y.

    Metrics of `keras_tfcl.metrics` get what they are about: `Alignment` and `ContrastiveAccuracy` the labels that
    define
    the loss's positives, all others the labels if there are any, else the labels.

    Raises:
        ValueError: for instances without augmenter and without views, a wrong rank of encoder or projector output,
            `supervised=True` without labels, a queue without momentum or of no whole number of batches, arguments out
            of range; all before the first step.

    Example:

    >>> encoder = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(16)])
    >>> model = keras_tfcl.ContrastiveModel(
    ...     encoder,
    ...     projector=keras_tfcl.ProjectionHead((16, 8)),
    ...     augmenter=keras_tfcl.layers.image_augmenter("digits", (8, 8, 1)),
    ... )
    >>> model.compile("adam", loss=keras_tfcl.ArctanhInfoNCE())
    >>> images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), "uint8")
    >>> history = model.fit(images, batch_size=32, verbose=0)
    >>> model.predict(images, verbose=0).shape
    (64, 16)

    References: Chen et al. 2020 (SimCLR), arXiv 2002.05709; Khosla et al. 2020 (SupCon), arXiv 2004.11362; He et al.
    2020 (MoCo), arXiv 1911.05722; Radford et al. 2021 (CLIP), arXiv 2103.00020.
    """

    def __init__(
        self,
        encoder: keras.Model | tuple[keras.Model, ...],
        projector: keras.Layer | tuple[keras.Layer, ...] | None = None,
        augmenter: Callable[..., Any] | None = None,
        views: int = 2,
        supervised: bool = False,
        seed: int | None = None,
        momentum: float | None = None,
        queue_size: int = 0,
        queue: str = "keys",
        encoder_batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_memory(momentum, queue_size, queue)
        if encoder_batch_size is not None:
            positive_integer("encoder_batch_size", encoder_batch_size, "None, the default, means the whole batch.")
        super().__init__(encoder, projector, supervised, encoder_batch_size=encoder_batch_size, **kwargs)
        views = checked_views(views, len(self.encoders), augmenter, supervised, queue)
        self.momentum = momentum
        self.queue_size = queue_size
        self.queue = queue
        # Not a layer of the model: what makes views belongs to the input pipeline.
        self._pipeline = ViewPipeline(augmenter, views, checked_seed(seed), paired=len(self.encoders) > 1)
        if momentum is not None:
            networks = [joined_network(*branch) for branch in zip(self.encoders, self.projectors, strict=True)]
            self.remember_in(make_memory(networks, momentum, queue_size, queue, encoder_batch_size))

    @property
    def augmenter(self) -> Callable[..., Any] | None:
        """What makes a view of each instance."""
        return self._pipeline.augmenter

    @property
    def views(self) -> int:
        """The number of views of each instance."""
        return self._pipeline.views

    @property
    def seed(self) -> int:
        """The seed of order and views."""
        return self._pipeline.seed

    # Compilation

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does.

        Args:
            optimizer: as in Keras.
            loss: a contrastive Keras loss or its name, such as `"arctanh_infonce"`.
            metrics: list of metrics of embeddings.
            weighted_metrics: list of metrics that get `sample_weight`.
            **kwargs: as in Keras. Where a layer computes in float16 the loss is scaled, unless `auto_scale_loss=False`.
                `jit_compile` is "auto" by default: XLA where every layer supports it, but, as in Keras, not on a
                machine without GPU and not with more than one replica, where it cannot be.
        """
        loss = losses_module.get(loss)
        optimizer = keras.optimizers.get(optimizer)
        if kwargs.get("auto_scale_loss", True) and self._computes_in_float16():
            optimizer = scaled_optimizer(optimizer)
        replicas = self.distribute_strategy.num_replicas_in_sync
        if self.momentum is not None or replicas > 1:
            check_loss_compares(loss)
        if replicas > 1:
            check_replicas(replicas, self.built and self.parts_built, kwargs.get("jit_compile"))
        # What is trained inside the loss, such as a learnable temperature, belongs to the model's variables.
        loss_layers = [part for part in vars(loss).values() if isinstance(part, keras.Layer)]
        by_label, others = split_metrics(metrics)
        weighted_by_id, weighted_others = split_metrics(weighted_metrics)
        self.compiled_with(loss_layers, by_label, weighted_by_id)
        super().compile(optimizer=optimizer, loss=loss, metrics=others, weighted_metrics=weighted_others, **kwargs)
        if self.parts_built:
            self.optimizer.build(self.trainable_variables)  # so that a model saved before training loads again

    def _computes_in_float16(self) -> bool:
        # Keras looks at the model's own policy alone, which need not be that of the encoder's layers.
        return any(layer.compute_dtype == "float16" for layer in nested_layers(self))

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        for name, ours in (("metrics", self.label_metrics), ("weighted_metrics", self.weighted_label_metrics)):
            if ours:
                config[name] = [*map(keras.saving.serialize_keras_object, ours), *config[name]]
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    # Data

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *,
        validation_data: Any = None,
        validation_batch_size: int | None = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does; see the class for what x may be.

        Arrays are shuffled anew each epoch, in batches of `batch_size` (32) rows; rows that do not fill a last batch
        are left out of that epoch. `validation_data` is made into views too, the same ones each time.
        """
        if not self.compiled:
            raise ValueError("`compile` must be called before `fit`. Received: a model that is not compiled.")
        check_no_split(kwargs)
        start = EpochStart(self.optimizer)
        if self.instance_bank is not None and not brings_batches(x):
            y = self.instance_bank.numbers(row_count(x), y)
        dataset = self._pipeline.batches(
            x, y, sample_weight, batch_size=batch_size, shuffle=shuffle, step=lambda: start.step
        )
        if self.key_queue is not None and isinstance(dataset, tf.data.Dataset):
            views = dataset.element_spec[0]
            self.key_queue.check_batch(tf.nest.flatten(views)[0].shape[0], len(views))
        if validation_data is not None:
            validation_data = self._validation(validation_data, validation_batch_size or batch_size)
        shuffle = shuffle and isinstance(x, keras.utils.PyDataset)  # all others are shuffled by now
        callbacks = [start, *_guarded(keras.tree.flatten(callbacks or []))]
        return super().fit(dataset, validation_data=validation_data, shuffle=shuffle, callbacks=callbacks, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, *, sample_weight: Any = None, **kwargs: Any
    ) -> Any:
        """Loss and metrics on x, as `keras.Model.evaluate`; see the class for what x may be."""
        return super().evaluate(self._evaluated(x, y, sample_weight, batch_size), **kwargs)

    def _validation(self, data: Any, batch_size: int | None) -> Any:
        if isinstance(data, (tuple, list)):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(tuple(data))
        else:
            x, y, sample_weight = data, None, None
        return self._evaluated(x, y, sample_weight, batch_size)

    def _evaluated(self, x: Any, y: Any, sample_weight: Any, batch_size: int | None) -> Any:
        batches = self._pipeline.batches(x, y, sample_weight, batch_size=batch_size, training=False)
        if isinstance(batches, tf.data.Dataset) and not self.supervised:
            check_several_views(len(batches.element_spec[0]), self.instance_bank is not None)
        return batches

    # Saving

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "encoder": serialize(self.encoder),
            "projector": serialize(self.projector),
            "augmenter": serialize(self.augmenter),
            "views": self.views,
            "supervised": self.supervised,
            "seed": self.seed,
            "momentum": self.momentum,
            "queue_size": self.queue_size,
            "queue": self.queue,
            "encoder_batch_size": self.encoder_batch_size,
        }

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        save_seeds(self, store)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(load_seeds(self, store))

    def build_from_config(self, config: dict[str, Any]) -> None:
        self.built = self.parts_built  # encoder and projector come out of their own configurations built

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> ContrastiveModel:
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("encoder", "projector", "augmenter")
        }
        return cls(**{**config, **parts})


def _guarded(callbacks: list[Any]) -> list[Any]:
    """The callbacks, and in front of them one that ends a run whose loss is no number, if none of them does."""
    kinds = (StopOnNonFinite, keras.callbacks.TerminateOnNaN)
    if any(isinstance(callback, kinds) for callback in callbacks):
        return callbacks
    return [StopOnNonFinite(), *callbacks]
