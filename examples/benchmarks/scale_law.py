"""The scale law: does the best scale of arctanh grow with the dimension D of the embeddings, and with the batch?

    python examples/benchmarks/scale_law.py train --seeds 0

Images as in image_classification.py, for half as long. Everything is chosen and judged on validation images.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from harness import Metrics, Task, Trained, main
from image_classification import accuracies, features, images, train_encoder

from keras_tfcl.evaluation import embed

STEPS = 156  # of every run, whatever the batch
SETTINGS = tuple(f"arctanh {scale}" for scale in (2, 4, 8, 16, 32))


class ScaleLaw(Task):
    name = "scale_law"
    datasets = ("D=32", "D=64", "D=128", "D=256", "D=512", "batch=64", "batch=1024")
    metric = "linear_accuracy"

    def dimension(self, dataset: str) -> int:
        kind, _, value = dataset.partition("=")
        return int(value) if kind == "D" else 128

    def train(self, dataset: str, loss: keras.losses.Loss, seed: int, tiny: bool) -> Trained:
        data = images(tiny)
        kind, _, value = dataset.partition("=")
        batch_size = 64 if tiny else int(value) if kind == "batch" else 256
        epochs = 1 if tiny else -(-STEPS // (len(data.train) // batch_size))
        model = train_encoder(data, loss, seed, epochs, batch_size, self.dimension(dataset), None if tiny else STEPS)
        outputs = features(model.encoder, data, ("train", "validation"))
        return Trained(outputs, embed(model, data.validation[:1000]), data.validation_labels[:1000])

    def validate(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        return accuracies(outputs, "validation")


if __name__ == "__main__":
    main(ScaleLaw(), SETTINGS, has_test=False)
