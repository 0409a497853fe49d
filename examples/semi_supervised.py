"""Few labels and many images without one: labelled images attract their class, all others only their own views.

    python examples/semi_supervised.py           # --tiny: a few seconds, to see that it runs

The same encoder is trained three times: on the labelled images alone, on all images without labels, and on both at
once. In our runs labels improved on training without any, but on these small digits the labelled images alone did best.

Needs the extras tf and evaluation (the 8 x 8 digits are scikit-learn's own).
"""

import sys

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_tfcl
from keras_tfcl.evaluation import knn_accuracy
from keras_tfcl.layers import image_augmenter

TINY = "--tiny" in sys.argv
EPOCHS, BATCH, LABELLED = (2, 64, 100) if TINY else (40, 256, 100)
UNLABELLED = -1

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) * 255 / 16).astype("uint8")
train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=500, stratify=labels, random_state=0)
known, _ = train_test_split(np.arange(len(train_x)), train_size=LABELLED, stratify=train_y, random_state=0)
given = np.full(len(train_x), UNLABELLED)
given[known] = train_y[known]
# The labelled images seven times in an epoch, so that a third of each batch has a label: else few of them meet.
drawn = np.concatenate([np.arange(len(train_x)), np.tile(known, 6)])


def new_encoder() -> keras.Model:
    layers = keras.layers
    encoder = keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(1 / 255)], name="encoder")
    for filters, strides in ((32, 1), (64, 2), (128, 1)):
        encoder.add(layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False))
        encoder.add(layers.BatchNormalization(momentum=0.9))
        encoder.add(layers.ReLU())
    encoder.add(layers.GlobalMaxPooling2D())
    return encoder


def trained_encoder(x: np.ndarray, y: np.ndarray | None) -> keras.Model:
    """Trains a new encoder on x with the labels y, some of them `UNLABELLED`, or without labels."""
    keras.utils.set_random_seed(0)
    model = keras_tfcl.ContrastiveModel(
        new_encoder(),
        projector=keras_tfcl.ProjectionHead((64, 32)),
        augmenter=image_augmenter("digits", (8, 8, 1), strength=0.5),
        supervised=y is not None,
        seed=0,
    )
    unlabelled = None if y is None else UNLABELLED
    model.compile(keras.optimizers.Adam(2e-3), loss=keras_tfcl.InfoNCE(0.1, unlabelled_class=unlabelled))
    # As many steps for the few labelled images as for all of them.
    batch = min(BATCH, len(x))
    model.fit(x, y, batch_size=batch, epochs=EPOCHS * (len(train_x) // BATCH) // (len(x) // batch), verbose=0)
    return model.encoder


def accuracy(encoder: keras.Model | None) -> float:
    """Of 500 other images, by the 3 nearest labelled ones."""

    def embed(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1).astype("float32") if encoder is None else encoder.predict(x, verbose=0)

    return knn_accuracy(embed(train_x[known]), train_y[known], embed(test_x), test_y, k=3)


rows = {
    "raw pixels": accuracy(None),
    "labelled images alone": accuracy(trained_encoder(train_x[known], train_y[known])),
    "all images, no labels": accuracy(trained_encoder(train_x, None)),
    "all images, some labels": accuracy(trained_encoder(train_x[drawn], given[drawn])),
}

print(f"\n3 nearest of {LABELLED} labelled digits, accuracy on {len(test_x)} others ({len(train_x)} in training)")
for name, value in rows.items():
    print(f"{name:<25}{value:.3f}")
