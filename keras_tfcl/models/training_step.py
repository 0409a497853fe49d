from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_tfcl._keras_compat import unlocked
from keras_tfcl.models.checks import check_labels, check_several_views
from keras_tfcl.models.embedder import Embedder
from keras_tfcl.models.first_failure import FirstFailure
from keras_tfcl.models.memory import Memory
from keras_tfcl.ops import replicas
from keras_tfcl.ops.candidates import Candidates, batch_candidates
from keras_tfcl.ops.masks import as_labels


class TrainingStep(Embedder):
    """One step of training: who is compared with whom, loss, gradients, and what is remembered for later steps.

    Args:
        encoder, projector: of `Embedder`.
        supervised: take labels as labels.
        **kwargs: of `keras.Model`.
    """

    def __init__(self, encoder: Any, projector: Any, supervised: bool, **kwargs: Any) -> None:
        super().__init__(encoder, projector, **kwargs)
        self.supervised = supervised
        self.loss_layers: list[keras.Layer] = []
        self.label_metrics: list[keras.Metric] = []
        self.weighted_label_metrics: list[keras.Metric] = []
        self.first_failure = FirstFailure()
        self.remember_in(Memory())

    def remember_in(self, memory: Memory) -> None:
        """Sets the parts that hold what earlier steps leave behind."""
        self.key_encoder, self.key_queue, self.instance_bank = memory

    def compiled_with(self, loss_layers: list, label_metrics: list, weighted_label_metrics: list) -> None:
        """Sets what `compile` brings besides Keras' own parts, in place of what an earlier `compile` brought.

        Filled anew, not set: of lists that are set Keras keeps the old parts too, and a built model takes no new ones.
        """
        with unlocked(self):
            for held, parts in (
                (self.loss_layers, loss_layers),
                (self.label_metrics, label_metrics),
                (self.weighted_label_metrics, weighted_label_metrics),
            ):
                held.clear()
                held.extend(parts)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step: loss, gradients, update of the weights, then of what the model remembers. Returns the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        keys = None if self.key_encoder is None else self.key_encoder(x, training=True)
        loss, z, gradients = self.loss_and_gradients(x, y, sample_weight, keys)
        self._track(loss, z)
        self.first_failure.note(self.optimizer.iterations, x, z, loss)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self._remember(self._labels(y, z), z, keys)
        return self.compute_metrics(x, y, z, sample_weight)

    def loss_and_gradients(self, x: tuple, y: Any, sample_weight: Any, keys: Any) -> tuple[Any, Any, list[Any]]:
        """Loss of a batch, its projections `(B, V, D)`, and the (scaled) gradient of each trainable variable."""
        with tf.GradientTape() as tape:
            z = self(x, training=True)
            loss = self.compute_loss(x, y, z, sample_weight, keys=keys)
            scaled = self.optimizer.scale_loss(loss)
        return loss, z, tape.gradient(scaled, self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
        keys: Any = None,
    ) -> Any:
        """The loss of projections `(B, V, D)`, and of the layers' regularisers.

        Args:
            x: the views, needed for their keys.
            y: labels, or instance numbers for `queue="instances"`.
            y_pred: the projections.
            sample_weight: weight of each instance.
            training: whether a memory bank takes part.
            keys: `(B, V, D)` of the key encoder. Defaults to what it makes of x.
        """
        labels = self._labels(y, y_pred, training)
        if keys is None and self.key_encoder is not None:
            keys = self.key_encoder(x, training=training)
        candidates = self._candidates(labels, y_pred, keys, training)
        if candidates is None:
            return super().compute_loss(x=x, y=labels, y_pred=y_pred, sample_weight=sample_weight, training=training)
        loss = self.loss.against(labels, y_pred, candidates, sample_weight)
        regularisers = [ops.sum(more) / replicas.replica_count() for more in self.losses]
        return ops.sum([loss, *regularisers]) if regularisers else loss

    def _candidates(self, labels: Any, z: Any, keys: Any, training: bool) -> Candidates | None:
        """What a batch is compared with; None: the batch itself, a symmetric problem that the loss knows to halve."""
        if self.instance_bank is not None and training:
            return self.instance_bank.candidates(labels, z)
        if keys is None and replicas.replica_count() == 1:
            return None
        candidates = batch_candidates(labels, z if keys is None else keys)
        return candidates if self.key_queue is None else candidates.concat(self.key_queue.candidates(keys.shape[1]))

    def _remember(self, labels: Any, z: Any, keys: Any) -> None:
        if self.key_encoder is not None:
            self.key_encoder.follow()
        if self.key_queue is not None:
            # Without labels a key of an earlier step is nobody's positive: labels of a batch are not negative.
            self.key_queue.push(keys, labels if self.supervised else -ops.ones_like(labels))
        if self.instance_bank is not None:
            self.instance_bank.remember(labels, z)

    def _labels(self, y: Any, z: Any, training: bool = True) -> Any:
        """Who is whose positive, `(B,)`: labels, instance numbers, or rows of the batch of all replicas."""
        if self.supervised or (self.instance_bank is not None and training):
            check_labels(y, self.supervised)
            return as_labels(y)
        check_several_views(z.shape[1], self.instance_bank is not None)
        rows = ops.shape(z)[0]
        return replicas.first_row(rows) + ops.arange(rows, dtype="int32")

    def _track(self, loss: Any, z: Any) -> None:
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        # Each replica has the mean over all of them, divided by their number.
        tracker.update_state(loss * replicas.replica_count(), sample_weight=ops.shape(z)[0])

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Updates the metrics with the batch of all replicas, and returns the logs."""
        y, y_pred, sample_weight = keras.tree.map_structure(
            lambda value: None if value is None else replicas.gather(value)[0], (y, y_pred, sample_weight)
        )
        labels = y if self.supervised else ops.arange(ops.shape(y_pred)[0], dtype="int32")
        for metric in self.label_metrics:
            metric.update_state(labels, y_pred)
        for metric in self.weighted_label_metrics:
            metric.update_state(labels, y_pred, sample_weight)
        logs = super().compute_metrics(x, labels if y is None else y, y_pred, sample_weight)
        # Keras 3 averages the logs of several workers over axis 0, which scalars do not have.
        return {name: ops.reshape(value, (1,)) for name, value in logs.items()} if replicas.several_workers() else logs
