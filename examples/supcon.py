"""SupCon: labels decide who is positive. All images of a class come together, not only two views of one image.

    python examples/supcon.py           # --tiny: a few seconds, to see that it runs

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
EPOCHS, BATCH, LABELLED = (2, 64, 256) if TINY else (40, 128, 256)
keras.utils.set_random_seed(0)

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) * 255 / 16).astype("uint8")
# Few labels, so that there is something to gain: with a thousand of them raw pixels are hard to beat.
train_x, test_x, train_y, test_y = train_test_split(
    images, labels, train_size=LABELLED, stratify=labels, random_state=0
)

layers = keras.layers
encoder = keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(1 / 255)], name="encoder")
for filters, strides in ((32, 1), (64, 2), (128, 1)):
    encoder.add(layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False))
    encoder.add(layers.BatchNormalization(momentum=0.9))
    encoder.add(layers.ReLU())
encoder.add(layers.GlobalMaxPooling2D())


def knn(train: np.ndarray, test: np.ndarray) -> float:
    return knn_accuracy(train, train_y, test, test_y, k=5)


def embed(x: np.ndarray) -> np.ndarray:
    return encoder.predict(x, batch_size=256, verbose=0)


rows = {
    "raw pixels": knn(*(x.reshape(len(x), -1).astype("float32") for x in (train_x, test_x))),
    "untrained encoder": knn(embed(train_x), embed(test_x)),
}

model = keras_tfcl.ContrastiveModel(
    encoder,
    projector=keras_tfcl.ProjectionHead((64, 32)),
    augmenter=image_augmenter("digits", (8, 8, 1), strength=0.5),
    supervised=True,  # y is what makes two embeddings positives
    seed=0,
)
model.compile(
    keras.optimizers.Adam(2e-3),
    loss=keras_tfcl.InfoNCE(temperature=0.1),
    metrics=[keras_tfcl.Tolerance(), keras_tfcl.Uniformity()],  # within a class close, over all spread out
)
model.fit(train_x, train_y, batch_size=BATCH, epochs=EPOCHS, verbose=2)
rows["trained encoder"] = knn(embed(train_x), embed(test_x))

print(f"\n5 nearest of {len(train_x)} labelled digits, accuracy on {len(test_x)} others")
for name, accuracy in rows.items():
    print(f"{name:<18}{accuracy:.3f}")
