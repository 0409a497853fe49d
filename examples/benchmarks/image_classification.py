"""Images: SimCLR on CIFAR-10 with every loss, judged by a linear classifier and by nearest neighbours.

python examples/benchmarks/image_classification.py train --seeds 0     # then: test
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from harness import Metrics, Task, Trained, main
from images import Images, Views, load

import keras_tfcl
from keras_tfcl.evaluation import embed, knn_accuracy, linear_accuracy

DIMENSION = 128
SPLITS = ("train", "validation", "test")


class ImageClassification(Task):
    name = "image_classification"
    datasets = ("CIFAR-10 (JPEG)",)
    metric = "linear_accuracy"

    def dimension(self, dataset: str) -> int:
        return DIMENSION

    def train(self, dataset: str, loss: keras.losses.Loss, seed: int, tiny: bool) -> Trained:
        data = images(tiny)
        epochs, batch_size = (1, 64) if tiny else (8, 256)
        model = train_encoder(data, loss, seed, epochs, batch_size, DIMENSION)
        projections = embed(model, data.validation[:1000])
        return Trained(features(model.encoder, data), projections, data.validation_labels[:1000])

    def validate(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        return accuracies(outputs, "validation")

    def test(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        return accuracies(outputs, "test")

    def baselines(self, dataset: str, tiny: bool) -> dict[str, Metrics]:
        data = images(tiny)
        keras.utils.set_random_seed(0)
        untrained = build_encoder(data.train.shape[1:])
        nets = {"untrained": untrained, "raw pixels": keras.Sequential([keras.layers.Flatten()])}
        return {name: accuracies(features(net, data), "test") for name, net in nets.items()}


@functools.cache
def images(tiny: bool) -> Images:
    return load(tiny, train=10_000, validation=5_000)


def train_encoder(
    data: Images,
    loss: keras.losses.Loss,
    seed: int,
    epochs: int,
    batch_size: int,
    dimension: int,
    steps: int | None = None,
) -> keras_tfcl.ContrastiveModel:
    """SimCLR with AdamW, whose steps do not depend on the size of the gradient: a temperature is no learning rate."""
    encoder = build_encoder(data.train.shape[1:])
    model = keras_tfcl.ContrastiveModel(encoder, projector=keras_tfcl.ProjectionHead((128, dimension)), seed=seed)
    views = Views(data, seed, epochs, batch_size, steps)
    warmup = min(20, len(views) // 5)
    rate = keras.optimizers.schedules.CosineDecay(0.0, len(views) - warmup, warmup_target=2e-3, warmup_steps=warmup)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-4), loss=loss, jit_compile=False)
    model.fit(views, shuffle=False, verbose=0)
    return model


def features(net: keras.Model, data: Images, splits: Sequence[str] = SPLITS) -> dict[str, np.ndarray]:
    """The outputs of a net and the labels of some splits; half precision, which accuracies do not notice."""
    outputs = {}
    for split in splits:
        images, labels = getattr(data, split), getattr(data, f"{split}_labels")
        outputs[f"{split}_features"] = embed(net, images.astype("float32")).astype("float16")
        outputs[f"{split}_labels"] = labels
    return outputs


def accuracies(outputs: Mapping[str, np.ndarray], split: str) -> Metrics:
    """Accuracies on `split` of classifiers of the training images."""
    parts = ("train_features", "train_labels", f"{split}_features", f"{split}_labels")
    sets = [outputs[name] for name in parts]
    return {"linear_accuracy": linear_accuracy(*sets), "knn_accuracy": knn_accuracy(*sets)}


def build_encoder(shape: tuple[int, ...]) -> keras.Model:
    """A residual net with the widths of ResNet-20; input 0..255. Of 32 x 32 images: 2 million multiply-adds."""
    layers = keras.layers
    inputs = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = convolve(x, 16, strides=2)
    for filters in (32, 64):
        x = layers.ReLU()(x)
        inner = convolve(layers.ReLU()(convolve(x, filters, strides=2)), filters)
        x = layers.Add()([inner, convolve(x, filters, strides=2, size=1)])
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.ReLU()(x)), name="encoder")


def convolve(x: keras.KerasTensor, filters: int, strides: int = 1, size: int = 3) -> keras.KerasTensor:
    x = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    return keras.layers.BatchNormalization(momentum=0.9)(x)  # short runs: 0.99 would lag behind


if __name__ == "__main__":
    main(ImageClassification())
