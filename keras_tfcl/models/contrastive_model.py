from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl._keras_compat import batches_seen, builds_from_one_replica, count_batch, nested_layers, unlocked
from keras_tfcl.callbacks.stop_on_non_finite import FirstFailure, StopOnNonFinite, nan_unless_finite
from keras_tfcl.data.inputs import as_samples, brings_batches, checked_source, row_count
from keras_tfcl.data.views import Unaugmented, ViewPipeline
from keras_tfcl.losses import ScoredPairLoss
from keras_tfcl.losses.loss_variables import layers_of_loss, leave_temperatures_out_of_weight_decay
from keras_tfcl.models import serving
from keras_tfcl.models.augmentation import augments_on_device, compiles_with_xla
from keras_tfcl.models.checks import (
    check_class_weight,
    check_compiled,
    check_labels,
    check_memory,
    check_no_split,
    check_replicas,
    check_several_views,
    check_towers,
    check_trainable,
    check_tuple,
    check_views,
    checked_loss,
    checked_seed,
)
from keras_tfcl.models.class_weight import weighted, weights_of_classes
from keras_tfcl.models.compared_loss import ComparedLoss, LabelsAndCandidates
from keras_tfcl.models.epoch_start import EpochStart
from keras_tfcl.models.instance_bank import InstanceBank
from keras_tfcl.models.memory import InBatch, Memory
from keras_tfcl.models.metrics_of_positives import following
from keras_tfcl.models.momentum_keys import MomentumKeys
from keras_tfcl.models.sampling_probability import SamplingProbability
from keras_tfcl.models.seed_state import load_seeds, save_seeds
from keras_tfcl.models.shared_layers import deserialize_parts, serialize_parts
from keras_tfcl.models.targets import Targets, check_correction, check_rule, targets_of
from keras_tfcl.models.towers import Towers
from keras_tfcl.models.uneven_replicas import at_least_one_sample, split
from keras_tfcl.ops import replicas
from keras_tfcl.ops.candidates import batch_candidates
from keras_tfcl.ops.masks import as_labels
from keras_tfcl.typing import (
    Augmenter,
    BatchSource,
    Config,
    DataSource,
    Logs,
    Loss,
    Metrics,
    SameStructure,
    Structure,
    Tensor,
    WeightStore,
)
from keras_tfcl.validation import positive_integer

ARGUMENTS = frozenset(  # that are attributes
    "encoder projector supervised momentum queue_size queue encoder_batch_size sampling_probability augment_on".split()
)


@keras.saving.register_keras_serializable(package="keras_tfcl")
@builds_from_one_replica  # `compile` asks for a built model where there are several
class ContrastiveModel(keras.Model):
    """Trains an encoder with a contrastive loss, through Keras' own `compile`, `fit`, `evaluate`, `predict` and `save`.

    In training, each sample is turned into V views, which `augmenter` makes in the input pipeline, or which you pass.
    The encoder maps each view to features, and the projector maps features to a projection. The loss receives the
    projections `(B, V, D)` and labels: the row numbers of the batch, or y with `supervised=True`.

    `predict` returns the L2-normalised features of the encoder, without the projector. With several encoders it takes
    and returns a tuple. `model.encoder` is the trained encoder itself.

    Under `tf.distribute`, embeddings of all replicas are compared, as if one device had the whole batch. Create and
    compile the model in the scope of the strategy.

    Args:
        encoder: a Keras model from a batch of samples to features `(B, F)`. Or a tuple of V models, one for each view
            (image and text, query and document); x is then a tuple with one input for each.
        projector: a model or layer from `(B, F)` to `(B, D)` that only training uses, such as
            `keras_tfcl.ProjectionHead((256, 128))`. With several encoders, one projector to share, or a tuple. Defaults
            to None: the loss receives the features.
        augmenter: a function from a batch of samples to a batch with one random view of each, such as
            `keras_tfcl.layers.image_augmenter("photos", (32, 32, 3))`. Needed unless the data hold ready-made views.
        augment_on: where views are made. `"host"`: in the input pipeline, in parallel to training. `"device"`: in the
            compiled training step, for a GPU whose host has few cores. It needs an augmenter with a method
            `augment(x, seed)`, as `image_augmenter` returns, a single replica, and arrays or a `tf.data.Dataset` of
            samples; a `PyDataset` or generator is augmented on the host. The views are the same ones. Defaults to
            `"auto"`: on the device if it is a GPU and the augmenter compiles with XLA.
        views: number of views of each sample. Defaults to 2.
        supervised: whether `y` holds the labels, so that samples with equal labels are positives. Defaults to False:
            only the views of one sample are positives. Metrics receive y in either case.
        seed: an integer that determines order and views. Defaults to a random integer from Python's generator, which
            `keras.utils.set_random_seed` seeds. It is saved with the model.
        momentum: a number in [0, 1), usually 0.99 to 0.999. Views are then compared with keys, the projections of the
            other views by a key encoder: an exponential moving average of encoder and projector, updated after each
            step by `key <- m * key + (1 - m) * encoder` (MoCo). Defaults to None: views are compared with one another.
        queue_size: number of keys of earlier steps to compare with as well, a multiple of batch size * views. Defaults
            to 0.
        queue: `"keys"`, the default, or `"instances"`: an instance bank of `queue_size` embeddings, one for each sample
            of the data set, each a moving average with `momentum` (usually 0.5). No encoder is copied.
        encoder_batch_size: largest number of views that pass through the encoder at a time in training. It allows
            batches larger than memory with the exact gradient, for about a third more time (gradient caching). Batch
            normalisation in the encoder then uses the statistics of each slice. Defaults to None: all at once.
        sampling_probability: a `keras_tfcl.SamplingProbability`, which estimates from y, the items of the samples, how
            probable it is that a batch holds each of them; the loss subtracts the logarithm from the logits of its
            views as candidates (log Q correction). Probabilities that are known go into y instead, as below. Not with
            `momentum`. Defaults to None: no correction.
        **kwargs: of `keras.Model`.

    `fit`, `evaluate` and `validation_data` accept as x:
        an array, a tensor or a dict of them: samples, one in each row;
        a tuple of V arrays: ready-made views (in `validation_data`: `((view_1, view_2),)` or `((view_1, view_2), y)`);
        a `tf.data.Dataset`, `PyDataset` or generator of batches `x`, `(x, y)`, `((view_1, ..., view_V),)` or
        `((view_1, ..., view_V), y)`, each with an optional `sample_weight` after y. A view may be a dict, of which only
        the first array by name has a row for each sample, and the others list the parts of all samples.

    y is an array of labels; with `supervised=True` also multi-hot labels `(N, L)`, but not with `momentum`, or the
    scores of pairs for `CoSENTLoss` and `PairContrastiveLoss`; or a dictionary with `"sampling_probability"`, floats
    `(N,)` in (0, 1] (below 1e-6 they count as that), and perhaps `"labels"`.

    `train_on_batch` and `test_on_batch` take one such batch. `predict` takes samples or a tuple of views.

    The metrics `Alignment` and `ContrastiveAccuracy` receive the labels that define the positives of the loss, and
    compare what it compares. All other metrics receive the labels y, or the row numbers if there is no y.

    Raises:
        ValueError: for samples without an augmenter and without views, an encoder or projector output of the wrong
            rank, `supervised=True` without labels, a queue without momentum or with a size that is not a multiple of
            the batch, and arguments out of range. All are raised before the first step.

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
        augmenter: Augmenter | None = None,
        views: int = 2,
        supervised: bool = False,
        seed: int | None = None,
        momentum: float | None = None,
        queue_size: int = 0,
        queue: str = "keys",
        encoder_batch_size: int | None = None,
        sampling_probability: SamplingProbability | None = None,
        augment_on: str = "auto",
        **kwargs: object,
    ) -> None:
        encoder = tuple(encoder) if isinstance(encoder, list) else encoder
        projector = tuple(projector) if isinstance(projector, list) else projector
        check_towers(encoder, projector)
        check_views(views, len(encoder) if isinstance(encoder, tuple) else 1, augmenter, supervised, queue)
        check_memory(momentum, queue_size, queue)
        if encoder_batch_size is not None:
            positive_integer("encoder_batch_size", encoder_batch_size, "None, the default, means the whole batch.")
        super().__init__(**kwargs)
        self.autocast = False  # encoder and projector cast for themselves; gradients add up in float32
        self.encoder = encoder  # layers are attributes: that is how Keras finds, saves and loads them
        self.projector = projector
        self.supervised = supervised
        self.momentum = None if momentum is None else float(momentum)
        self.queue_size = queue_size
        self.queue = queue
        self.encoder_batch_size = encoder_batch_size
        self.sampling_probability = sampling_probability
        self.augment_on = augment_on
        self.towers = Towers(encoder, projector, encoder_batch_size)
        self.built = self.towers.build()
        # Not a layer of the model, because views are made in the input pipeline.
        self._pipeline = ViewPipeline(
            augmenter,
            views,
            checked_seed(seed),
            paired=len(self.encoders) > 1,
            labels_decide=supervised and momentum is None,
            in_batch=queue_size == 0,
            on_device=augments_on_device(augment_on, augmenter, self.distribute_strategy.num_replicas_in_sync),
        )
        self.memory = self._make_memory()
        self.loss_layers: list[keras.Layer] = []
        self.first_failure = FirstFailure()

    def __setattr__(self, name: str, value: object) -> None:
        if name in ARGUMENTS and name in vars(self):
            raise AttributeError(
                f"`{name}` is fixed when a ContrastiveModel is created: memory and input pipeline are made for it. "
                f"Received: a new `{name}`. Create a new ContrastiveModel with it; for other weights alone, use "
                "model.encoder.set_weights(...)."
            )
        super().__setattr__(name, value)

    def _make_memory(self) -> Memory:
        if self.momentum is None:
            return InBatch()
        networks = self.towers.networks()
        if self.queue == "instances":
            return InstanceBank(self.queue_size, networks[0].output_shape[-1], self.momentum)
        return MomentumKeys(networks, self.momentum, self.queue_size, self.supervised, self.encoder_batch_size)

    @property
    def encoders(self) -> tuple[keras.Model, ...]:
        """One encoder for all views, or one for each."""
        return self.towers.encoders

    @property
    def augmenter(self) -> Augmenter | None:
        """The function or layer that makes a view of each sample."""
        return self._pipeline.augmenter

    @property
    def views(self) -> int:
        """The number of views of each sample."""
        return self._pipeline.views

    @property
    def seed(self) -> int:
        """The seed of order and views."""
        return self._pipeline.seed

    # === Compilation ===

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer | Mapping[str, object] = "rmsprop",
        loss: Loss | None = None,
        metrics: Metrics | None = None,
        weighted_metrics: Metrics | None = None,
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
        count = self.distribute_strategy.num_replicas_in_sync
        loss = checked_loss(loss, with_candidates=self.momentum is not None or count > 1)
        if count > 1:
            built = self.built and self.towers.built
            check_replicas(count, built, kwargs.get("jit_compile"), kwargs.get("steps_per_execution", 1))
        check_rule(loss, self.supervised)
        optimizer = keras.optimizers.get(optimizer)
        scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if not scales and kwargs.get("auto_scale_loss", True) and self._computes_in_float16():
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
        loss_layers = layers_of_loss(loss)  # trained inside the loss, such as a learnable temperature
        leave_temperatures_out_of_weight_decay(optimizer, loss_layers)
        with unlocked(self):  # changed in place: if it were set, Keras would keep the layers of an earlier loss too
            self.loss_layers.clear()
            self.loss_layers.extend(loss_layers)
        if (
            self._pipeline.on_device
            and not compiles_with_xla(self.augmenter)
            and kwargs.get("jit_compile") in (None, "auto")
        ):
            kwargs["jit_compile"] = False  # on a GPU, Keras would compile an augmenter that XLA cannot
        super().compile(
            optimizer=optimizer,
            loss=ComparedLoss(loss),
            metrics=following(loss, metrics, self.supervised),
            weighted_metrics=following(loss, weighted_metrics, self.supervised),
            **kwargs,
        )
        self.loss = loss
        if self.towers.built:
            self.optimizer.build(self.trainable_variables)  # so that a model saved before training loads again

    def _computes_in_float16(self) -> bool:
        # Keras checks only the policy of the model, but the layers of the encoder may have another one.
        return any(layer.compute_dtype == "float16" for layer in nested_layers(self))

    def get_compile_config(self) -> Config:
        if not self.compiled:
            return super().get_compile_config()
        return super().get_compile_config() | {"loss": keras.saving.serialize_keras_object(self.loss)}

    def compile_from_config(self, config: Config) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    # === One step ===

    def call(self, inputs: Structure, training: bool | None = None) -> Structure:
        """Samples give L2-normalised features `(B, F)`; a tuple of V views gives their projections `(B, V, D)`."""
        if isinstance(inputs, Unaugmented):
            inputs = self._pipeline.views_of(inputs)
        if isinstance(inputs, tuple) or len(self.encoders) > 1:
            return self.towers.project(inputs, training)  # type: ignore[arg-type]  # it refuses anything but a tuple
        return self.towers.embed(inputs, training)

    def train_step(self, data: Structure) -> dict[str, Tensor]:
        """One step: loss, gradients, update of the weights, then of the memory. Returns the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = self._pipeline.views_of(x)
        with tf.GradientTape() as tape:
            z, comparison, loss = self._forward(x, y, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        check_trainable(self)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self._track(self.first_failure.checked_loss(loss, x, z, self.optimizer.iterations), z)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        count_batch(self.optimizer)
        self.memory.update(comparison.labels, z, comparison.candidates)
        return self.compute_metrics(x, y, z, sample_weight)

    def test_step(self, data: Structure) -> dict[str, Tensor]:
        """Loss and metrics of a batch; nothing is trained or stored. Returns the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = self._pipeline.views_of(x)
        z, _, loss = self._forward(x, y, sample_weight, training=False)
        self._track(nan_unless_finite(loss, x), z)
        return self.compute_metrics(x, y, z, sample_weight)

    def _forward(
        self, x: tuple[Structure, ...], y: Tensor | None, sample_weight: Tensor | None, training: bool
    ) -> tuple[Tensor, LabelsAndCandidates, Tensor]:
        """Projections `(B, V, D)` of this replica's samples, what they are compared with, and the loss."""
        views = self._never_empty(x)
        z = self(views, training=training)
        if views is not x:
            z = z[: tf.shape(keras.tree.flatten(x)[0])[0]]
        comparison = self._comparison(views, y, z, training)
        return z, comparison, self.compute_loss(views, comparison, z, sample_weight, training)

    def _never_empty(self, x: SameStructure) -> SameStructure:
        """x, with a sample on each replica. Synchronized batch normalisation would count it, and can do without."""
        return x if self.towers.synchronized else at_least_one_sample(x)

    def predict_step(self, data: Structure) -> Structure:
        """Embeds one batch; with several encoders, each embeds its own input."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        inputs = self._never_empty(x)
        features = self.towers.embed(inputs, training=False)
        if inputs is x:
            return features
        count = tf.shape(keras.tree.flatten(x)[0])[0]
        return keras.tree.map_structure(lambda part: part[:count], features)

    def compute_loss(
        self,
        x: tuple[Structure, ...] | None = None,
        y: Tensor | LabelsAndCandidates | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Returns the loss of projections `(B, V, D)` plus the regularisation losses of the layers.

        Args:
            x: the views, needed for their keys.
            y: labels, or the numbers of the samples for `queue="instances"`.
            y_pred: the projections.
            sample_weight: weight of each sample.
            training: whether an instance bank is used.
        """
        comparison = y if isinstance(y, LabelsAndCandidates) else self._comparison(x, y, y_pred, training)
        return super().compute_loss(x, comparison, y_pred, sample_weight, training)

    def _comparison(self, x: Any, y: Structure, z: Tensor, training: bool) -> LabelsAndCandidates:
        targets = self._targets(y, training)
        labels = self._labels(targets.labels, z, training)
        if targets.sampling_probability is None:
            return LabelsAndCandidates(labels, self.memory.candidates(labels, z, x, training))
        check_correction(self.loss, self.memory)
        return LabelsAndCandidates(labels, batch_candidates(labels, z, targets.log_probability))

    def _targets(self, y: Structure, training: bool) -> Targets:
        """Labels and sampling probabilities, given or estimated from the labels."""
        targets = targets_of(y)
        if self.sampling_probability is None:
            return targets
        if targets.labels is None or targets.sampling_probability is not None:
            raise ValueError(
                "SamplingProbability estimates from the items of a batch. Received: "
                f"{'no y' if targets.labels is None else 'probabilities in y as well'}. Pass the integer of each "
                "sample's item as y."
            )
        return Targets(targets.labels, self.sampling_probability(targets.labels, training=training))

    def _labels(self, y: Tensor | None, z: Tensor, training: bool) -> Tensor:
        """The labels `(B,)` that decide who is positive: labels, slots, or rows of the batch of all replicas."""
        numbered = self.queue == "instances"
        if self.supervised or (numbered and training):
            check_labels(y, self.supervised)
            if isinstance(self.loss, ScoredPairLoss):
                return y
            return as_labels(y, multi_hot=self.momentum is None)
        check_several_views(z.shape[1], numbered)
        count = ops.shape(z)[0]
        return replicas.first_row(count) + ops.arange(count, dtype="int32")

    def _track(self, loss: Tensor, z: Tensor) -> None:
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        # Each replica has the loss of all replicas, divided by their number, and weighs it by the samples of all.
        tracker.update_state(loss * replicas.replica_count(), sample_weight=replicas.total(ops.shape(z)[0]))

    def compute_metrics(
        self, x: Structure, y: Tensor | None, y_pred: Tensor | None, sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Updates the metrics with the batch of all replicas, and returns the logs."""
        y, y_pred, sample_weight = keras.tree.map_structure(
            lambda value: None if value is None else replicas.gather(value)[0], (y, y_pred, sample_weight)
        )
        y = targets_of(y).labels
        rows = ops.arange(ops.shape(y_pred)[0], dtype="int32")
        logs = super().compute_metrics(x, rows if y is None else y, y_pred, sample_weight)
        # Keras 3 averages the logs of several workers over axis 0, which scalars do not have.
        return {name: ops.reshape(value, (1,)) for name, value in logs.items()} if replicas.several_workers() else logs

    # === Data ===

    def fit(
        self,
        x: DataSource | None = None,
        y: Structure | None = None,
        batch_size: int | None = None,
        *,
        validation_data: DataSource | None = None,
        validation_batch_size: int | None = None,
        shuffle: bool = True,
        sample_weight: Structure | None = None,
        class_weight: dict[int, float] | None = None,
        callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback] | None = None,
        **kwargs: object,
    ) -> keras.callbacks.History:
        """Trains the encoder, as `keras.Model.fit` does. The class describes which x it accepts.

        Arrays are shuffled in each epoch and split into batches of `batch_size` (32) samples. An incomplete last batch
        is dropped. `validation_data` is turned into views too, the same views each time.
        """
        check_compiled(self.compiled, "fit")
        check_no_split(kwargs)
        self.memory.begin()
        start = EpochStart(self.optimizer)
        if isinstance(self.memory, InstanceBank) and not brings_batches(x):
            y = self.memory.numbers(row_count(as_samples(x)), y)
        options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "step": lambda: start.step}
        endless = None
        if kwargs.get("steps_per_epoch") is None and self.distribute_strategy.num_replicas_in_sync == 1:
            endless = self._pipeline.endless_batches(x, y, sample_weight, **options)
        if endless is None or endless[1] % self.steps_per_execution:
            dataset = self._pipeline.batches(x, y, sample_weight, **options)
        else:
            dataset, kwargs["steps_per_epoch"] = endless
        check_class_weight(class_weight, True, None, self.queue)
        if isinstance(dataset, tf.data.Dataset):
            views, labels, weight = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)
            check_tuple(views, len(self.encoders))
            self.memory.check_batch(keras.tree.flatten(views)[0].shape[0], self._pipeline.view_count(views))
            check_class_weight(class_weight, labels, weight, self.queue)
            if isinstance(self.memory, InstanceBank) and brings_batches(x):
                dataset = self.memory.checked(dataset)
            if class_weight is not None:
                dataset, class_weight = weighted(dataset, class_weight), None
        if validation_data is not None:
            validation_data = self._validation(validation_data, validation_batch_size or batch_size)
        shuffle = shuffle and isinstance(x, keras.utils.PyDataset)  # all others are shuffled by now
        callbacks = [start, *_guarded(keras.tree.flatten(callbacks or []))]
        return super().fit(
            dataset,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            callbacks=callbacks,
            **kwargs,
        )

    def evaluate(
        self,
        x: DataSource | None = None,
        y: Structure | None = None,
        batch_size: int | None = None,
        *,
        sample_weight: Structure | None = None,
        **kwargs: object,
    ) -> float | list[float] | Logs:
        """Computes loss and metrics on x, as `keras.Model.evaluate` does. The class describes which x it accepts."""
        self.memory.begin()
        return super().evaluate(self._evaluated(x, y, sample_weight, batch_size), **kwargs)

    def predict(self, x: DataSource, *args: object, **kwargs: object) -> Any:
        """Computes the L2-normalised features of x. The class describes which x it accepts.

        Returns:
            `(N, F)`; for a tuple of views, or of inputs of several encoders, a tuple of arrays `(N, F)`.
        """
        return super().predict(self._predicted(x), *args, **kwargs)

    def train_on_batch(
        self,
        x: Structure,
        y: Structure | None = None,
        sample_weight: Structure | None = None,
        class_weight: dict[int, float] | None = None,
        return_dict: bool = False,
    ) -> float | list[float] | Logs:
        """Runs one step of `fit` on one batch: samples, from which views are made, or a tuple of views.

        Args:
            x: as in `fit`, except a source of batches.
            y: labels. With `queue="instances"`, the number of each sample.
            sample_weight, class_weight, return_dict: as in Keras.

        Returns:
            The loss, or a list or dict of the loss and the metrics of this batch.
        """
        check_compiled(self.compiled, "train_on_batch")
        self.memory.begin()
        check_class_weight(class_weight, y, sample_weight, self.queue)
        if class_weight is not None:
            sample_weight = weights_of_classes(y, class_weight)
        batch = self._pipeline.one_batch(x, y, sample_weight, batches_seen(self.optimizer))
        check_tuple(batch[0], len(self.encoders))
        self.memory.check_batch(keras.tree.flatten(batch)[0].shape[0], len(batch[0]))
        if isinstance(self.memory, InstanceBank) and batch[1] is not None:
            self.memory.check_numbers(batch[1])
        return super().train_on_batch(*split(batch, self.distribute_strategy), return_dict=return_dict)

    def test_on_batch(
        self,
        x: Structure,
        y: Structure | None = None,
        sample_weight: Structure | None = None,
        return_dict: bool = False,
    ) -> float | list[float] | Logs:
        """Computes loss and metrics of one batch; x as in `train_on_batch`."""
        check_compiled(self.compiled, "test_on_batch")
        self.memory.begin()
        batch = self._pipeline.one_batch(x, y, sample_weight)
        check_tuple(batch[0], len(self.encoders))
        return super().test_on_batch(*split(batch, self.distribute_strategy), return_dict=return_dict)

    def predict_on_batch(self, x: Structure) -> Any:
        """Computes what `predict` computes, for one batch."""
        x = keras.tree.map_structure(tf.convert_to_tensor, self._predicted(x))
        return super().predict_on_batch(split(x, self.distribute_strategy))

    def export(self, filepath: str | os.PathLike[str], format: str = "tf_saved_model", **kwargs: object) -> None:
        """Writes the function from samples to L2-normalised features, as `keras.Model.export` does.

        For ONNX, use `keras_tfcl.export.export_onnx`, which also compares the file with the model.

        Args:
            filepath: the path to write to.
            format: as in Keras.
            **kwargs: as in Keras.

        Raises:
            ValueError: if the encoder does not know its inputs.
        """
        serving.export(serving.serving_model(self.towers), filepath, format, **kwargs)

    def _predicted(self, x: DataSource) -> DataSource:
        x = checked_source(x) if brings_batches(x) else as_samples(x)
        if not brings_batches(x):
            check_tuple(x, len(self.encoders))
            row_count(x)
        return x

    def _validation(self, data: Structure, batch_size: int | None) -> BatchSource:
        data = tuple(data) if isinstance(data, (tuple, list)) else (data,)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return self._evaluated(x, y, sample_weight, batch_size)

    def _evaluated(
        self, x: DataSource, y: Structure | None, sample_weight: Structure | None, batch_size: int | None
    ) -> BatchSource:
        batches = self._pipeline.batches(x, y, sample_weight, batch_size=batch_size, training=False)
        if isinstance(batches, tf.data.Dataset):
            views = batches.element_spec[0]
            check_tuple(views, len(self.encoders))
            if not self.supervised:
                check_several_views(self._pipeline.view_count(views), self.queue == "instances")
        return batches

    # === Saving ===

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            **serialize_parts(encoder=self.encoder, projector=self.projector),
            "augmenter": serialize(self.augmenter),
            "views": self.views,
            "supervised": self.supervised,
            "seed": self.seed,
            "momentum": self.momentum,
            "queue_size": self.queue_size,
            "queue": self.queue,
            "encoder_batch_size": self.encoder_batch_size,
            "sampling_probability": serialize(self.sampling_probability),
            "augment_on": self.augment_on,
        }

    def save_own_variables(self, store: WeightStore) -> None:
        super().save_own_variables(store)
        save_seeds(self, store)

    def load_own_variables(self, store: WeightStore) -> None:
        super().load_own_variables(load_seeds(self, store))

    def build_from_config(self, config: Config) -> None:
        self.built = self.towers.built  # encoder and projector are built when they are loaded

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Mapping[str, object] | None = None
    ) -> ContrastiveModel:
        objects = {
            name: keras.saving.deserialize_keras_object(config.get(name), custom_objects=custom_objects)
            for name in ("augmenter", "sampling_probability")
        }
        return cls(**deserialize_parts({**config, **objects}, custom_objects, "encoder", "projector"))


def _guarded(callbacks: list[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
    """The callbacks, with a `StopOnNonFinite` in front unless one of them is a `TerminateOnNaN`."""
    if any(isinstance(callback, keras.callbacks.TerminateOnNaN) for callback in callbacks):
        return callbacks
    guards = [callback for callback in callbacks if isinstance(callback, StopOnNonFinite)]
    return [*(guards or [StopOnNonFinite()]), *(callback for callback in callbacks if callback not in guards)]
