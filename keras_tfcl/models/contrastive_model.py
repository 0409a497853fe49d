from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_tfcl import losses as losses_module
from keras_tfcl.data.views import ViewPipeline
from keras_tfcl.ops.similarity import l2_normalize
from keras_tfcl.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_tfcl")
class ContrastiveModel(keras.Model):
    """Trains an encoder with a contrastive loss, through Keras' own `compile`, `fit`, `evaluate`, `predict` and `save`.

    In training each instance becomes V views (made by `augmenter` in the input pipeline, or given), each view a feature
    vector of the encoder and a projection of it; the loss sees the projections `(B, V, D)` with the row numbers of the
    batch, or with `supervised=True` the labels, as ids. `predict` gives the encoder's features, L2-normalised, without
    the projector. `model.encoder` is the trained encoder itself.

    Args:
        encoder: any Keras model from a batch of instances to features `(B, F)`.
        projector: model or layer from `(B, F)` to `(B, D)` used in training only, such as
            `keras_tfcl.ProjectionHead((256, 128))`. Defaults to None: the loss sees the features.
        augmenter: function from a batch of instances to a batch with one random view of each, such as
            `keras_tfcl.layers.image_augmenter("photos", (32, 32, 3))`. Needed unless the data holds ready-made views.
        views: number of views of each instance. Defaults to 2.
        supervised: take `y` as the ids, so that instances of one label are positives. Defaults to False: only the views
            of one instance are. Labels that are given all the same go to the metrics.
        seed: integer that fixes order and views. Defaults to a random one, drawn from Python's generator (so
            `keras.utils.set_random_seed` fixes it) and kept when the model is saved.
        **kwargs: of `keras.Model`.

    What `fit`, `evaluate` and `validation_data` take as x:
        one array, tensor or structure of them: instances, one a row;
        a tuple of V arrays: ready-made views (in `validation_data`: `((view_1, view_2),)` or `((view_1, view_2), y)`);
        a `tf.data.Dataset`, `PyDataset` or generator of batches `x`, `(x, y)`, `((view_1, ..., view_V),)` or
        `((view_1, ..., view_V), y)`, each with an optional `sample_weight` after y.

    Metrics of `keras_tfcl.metrics` get what they are about: `Alignment` and `ContrastiveAccuracy` the ids that define
    the loss's positives, all others the labels if there are any, else the ids.

    Raises:
        ValueError: for instances without augmenter and without views, a wrong rank of encoder or projector output,
            `supervised=True` without labels, arguments out of range.

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

    References: Chen et al. 2020 (SimCLR), arXiv 2002.05709; Khosla et al. 2020 (SupCon), arXiv 2004.11362.
    """

    def __init__(
        self,
        encoder: keras.Model,
        projector: keras.Layer | None = None,
        augmenter: Callable[..., Any] | None = None,
        views: int = 2,
        supervised: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        views = positive_integer("views", views, "Two is usual.")
        if views == 1 and not supervised:
            raise ValueError(
                "With one view and no labels no instance has a positive. Received: views=1, supervised=False. "
                "Use views=2, or supervised=True."
            )
        self.encoder = encoder
        self.projector = projector
        self.supervised = supervised
        self.loss_layers: list[keras.Layer] = []
        self.id_metrics: list[keras.Metric] = []
        # Not a layer of the model: what makes views belongs to the input pipeline.
        self._pipeline = ViewPipeline(augmenter, views, random.randint(1, 10**9) if seed is None else seed)
        if encoder.built and getattr(encoder, "inputs", None):
            self._check_output(encoder.output_shape, "encoder")
            if projector is not None and not projector.built:
                projector.build(encoder.output_shape)
            self.built = True

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

    # Forward

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Instances give L2-normalised features `(B, F)`; a tuple of V views gives their projections `(B, V, D)`."""
        if not isinstance(inputs, tuple):
            return l2_normalize(self._features(inputs, training))
        stacked = keras.tree.map_structure(lambda *views: ops.concatenate(views, axis=0), *inputs)
        projections = self._features(stacked, training)  # (V * B, F), view by view
        if self.projector is not None:
            projections = self.projector(projections, training=training)
            self._check_output(projections.shape, "projector")
        projections = ops.reshape(projections, (len(inputs), -1, projections.shape[-1]))
        return ops.transpose(projections, (1, 0, 2))  # (B, V, D)

    def _features(self, x: Any, training: bool | None) -> Any:
        features = self.encoder(x, training=training)
        self._check_output(getattr(features, "shape", type(features).__name__), "encoder")
        return features

    @staticmethod
    def _check_output(shape: Any, owner: str) -> None:
        if not isinstance(shape, str) and len(shape) == 2 and isinstance(shape[-1], int):
            return
        raise ValueError(
            f"The {owner} must give one vector for each instance, shape (B, F). Received: output {shape}. "
            "End it in global pooling, Flatten or Dense, with one output."
        )

    # Loss and metrics

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """Configures training as `keras.Model.compile` does.

        Args:
            optimizer: as in Keras.
            loss: a contrastive Keras loss or its name, such as `"arctanh_infonce"`.
            metrics: list of metrics of embeddings.
            **kwargs: as in Keras. `jit_compile` is "auto" by default: XLA where every layer supports it.
        """
        loss = losses_module.get(loss)
        # What is trained inside the loss, such as a learnable temperature, belongs to the model's variables.
        self.loss_layers = [part for part in vars(loss).values() if isinstance(part, keras.Layer)]
        metrics = keras.tree.flatten(metrics or [])
        self.id_metrics = [m for m in metrics if getattr(m, "positives_by_id", False)]
        others = [m for m in metrics if m not in self.id_metrics]
        super().compile(optimizer=optimizer, loss=loss, metrics=others, **kwargs)
        if self.built:
            self.optimizer.build(self.trainable_variables)  # so that a model saved before training loads again

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        if self.id_metrics:
            ours = [keras.saving.serialize_keras_object(metric) for metric in self.id_metrics]
            config["metrics"] = [*ours, *(config["metrics"] or [])]
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        ids = self._ids(y, y_pred)
        return super().compute_loss(x=x, y=ids, y_pred=y_pred, sample_weight=sample_weight, training=training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        ids = self._ids(y, y_pred)
        for metric in self.id_metrics:
            metric.update_state(ids, y_pred, sample_weight)
        return super().compute_metrics(x, ids if y is None else y, y_pred, sample_weight)

    def _ids(self, y: Any, y_pred: Any) -> Any:
        if not self.supervised:
            return ops.arange(ops.shape(y_pred)[0], dtype="int32")
        if y is None:
            raise ValueError(
                "supervised=True takes positives from the labels. Received: data without y. "
                "Pass fit(x, y), or a dataset of (x, y)."
            )
        return y

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
        self._assert_compile_called("fit")
        start = _EpochStart(int(self.optimizer.iterations))
        dataset = self._pipeline.batches(
            x, y, sample_weight, batch_size=batch_size, shuffle=shuffle, step=lambda: start.step
        )
        if validation_data is not None:
            validation_data = self._validation(validation_data, validation_batch_size or batch_size)
        shuffle = shuffle and isinstance(x, keras.utils.PyDataset)  # all others are shuffled by now
        callbacks = [start, *keras.tree.flatten(callbacks or [])]
        return super().fit(dataset, validation_data=validation_data, shuffle=shuffle, callbacks=callbacks, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, *, sample_weight: Any = None, **kwargs: Any
    ) -> Any:
        """Loss and metrics on x, as `keras.Model.evaluate`; see the class for what x may be."""
        dataset = self._pipeline.batches(x, y, sample_weight, batch_size=batch_size, training=False)
        return super().evaluate(dataset, **kwargs)

    def _validation(self, data: Any, batch_size: int | None) -> Any:
        if isinstance(data, (tuple, list)):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(tuple(data))
        else:
            x, y, sample_weight = data, None, None
        return self._pipeline.batches(x, y, sample_weight, batch_size=batch_size, training=False)

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
        }

    def build_from_config(self, config: dict[str, Any]) -> None:
        # Encoder and projector come out of their own configurations built.
        self.built = all(part is None or part.built for part in (self.encoder, self.projector))

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> ContrastiveModel:
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("encoder", "projector", "augmenter")
        }
        return cls(**{**config, **parts})


class _EpochStart(keras.callbacks.Callback):
    """Notes the optimizer's step as an epoch starts: the input pipeline, which reads late, would race with training."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = int(self.model.optimizer.iterations)
