"""Fine-tuning: a net of keras.applications, trained without labels on your images, then with few of them.

    python examples/fine_tuning.py --data cifar10                            # any set of tensorflow_datasets
    python examples/fine_tuning.py --data folder:photos --weights imagenet   # PATH/label/file.jpg, published weights
    python examples/fine_tuning.py --tiny                                    # two minutes, to see that it runs

Labels are hidden but for 1 %, 10 % or 100 % of the training images. Three ways to use them are compared: the same net
from its first weights (from scratch, unless you pass `--weights`), the net after contrastive training with a classifier
on its frozen features, and that net fine-tuned with the classifier. Needs the extras tf, data and evaluation.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_tfcl
from keras_tfcl.diagnostics import write_table
from keras_tfcl.evaluation import knn_accuracy
from keras_tfcl.layers import image_augmenter, recalibrate_batch_norm
from keras_tfcl.models import build_backbone

parser = argparse.ArgumentParser(description="A net of keras.applications with few labels.")
parser.add_argument("--data", default="mnist5k", help="a name load_images knows, or folder:PATH")
parser.add_argument("--net", default="MobileNetV2", help="a name of keras.applications")
parser.add_argument("--weights", help="imagenet, or a file of weights; random by default")
parser.add_argument("--side", type=int, default=32, help="side of the images in pixels")
parser.add_argument("--epochs", type=int, default=50, help="of the contrastive training")
parser.add_argument("--csv", type=Path, help="where to write the accuracies")
parser.add_argument("--tiny", action="store_true", help="to see that it runs")
options = parser.parse_args()
BATCH, STEPS = (32, 8) if options.tiny else (128, 500)  # steps of each supervised training
RATE, SMALL_RATE = 1e-3, 3e-4  # a net that knows something is changed in small steps
SHARES = (0.1,) if options.tiny else (0.01, 0.1, 1.0)
keras.utils.set_random_seed(0)

data = keras_tfcl.data.load_images(options.data, image_size=options.side, limit=200 if options.tiny else None)
train, test = (np.repeat(x, 3, -1) if x.shape[-1] == 1 else x for x in (data.train_images, data.test_images))
shape, classes = train.shape[1:], len(data.class_names)


def first_net() -> keras.Model:
    """Takes pixels 0..255. Its batch normalisation has momentum 0.9: Keras' 0.999 is for runs of many epochs."""
    keras.utils.set_random_seed(0)
    return build_backbone(options.net, options.side, weights=options.weights)


def labelled(share: float) -> np.ndarray:
    """Indices of a share of each class, one image at least."""
    chosen = []
    for label in range(classes):
        members = np.random.default_rng(label).permutation(np.flatnonzero(data.train_labels == label))
        chosen.extend(members[: max(round(share * len(members)), 1)])
    return np.array(chosen)


def accuracy(net: keras.Model, share: float, rate: float, frozen: bool = False) -> float:
    """Test accuracy after training a classifier on the net, and the net too unless it is frozen."""
    chosen = labelled(share)
    x, held_out = train[chosen], test
    layers: list[keras.Layer] = [keras.layers.Dense(classes, activation="softmax")]
    if frozen:  # its features need to be computed only once
        x, held_out = (net.predict(part, batch_size=256, verbose=0) for part in (x, test))
        layers.insert(0, keras.layers.BatchNormalization(momentum=0.9))
    else:
        layers.insert(0, net)
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    batches = tf.data.Dataset.from_tensor_slices((x, data.train_labels[chosen])).shuffle(len(x), seed=0).repeat()
    # As many steps for few labels as for many.
    model.fit(batches.batch(BATCH), steps_per_epoch=STEPS, shuffle=False, verbose=0)
    return model.evaluate(held_out, data.test_labels, verbose=0, return_dict=True)["accuracy"]


def knn(net: keras.Model) -> float:
    embedded = (net.predict(x, batch_size=256, verbose=0) for x in (train, test))
    return knn_accuracy(next(embedded), data.train_labels, next(embedded), data.test_labels)


net = first_net()
pixels = [x.reshape(len(x), -1).astype("float32") for x in (train, test)]
rows = {
    "raw pixels": knn_accuracy(pixels[0], data.train_labels, pixels[1], data.test_labels),
    "untrained encoder": knn(net),
}

# 1. Contrastive training on all images, without a label.
model = keras_tfcl.ContrastiveModel(
    net,
    projector=keras_tfcl.ProjectionHead((256, 128)),
    augmenter=image_augmenter("photos" if data.kind == "photos" else "digits", shape),
    seed=0,
)
model.compile(keras.optimizers.Adam(RATE), loss=keras_tfcl.InfoNCE(0.2))
monitor = keras_tfcl.CollapseMonitor(test, max_samples=256)  # tells a collapse from lagging batch normalisation
model.fit(train, batch_size=BATCH, epochs=1 if options.tiny else options.epochs, callbacks=[monitor], verbose=2)
recalibrate_batch_norm(net, train[: 32 * BATCH], BATCH)
rows["trained encoder"] = knn(net)
contrastive = net.get_weights()

# 2. The same labels, used in three ways.
print(f"\n{len(test)} held-out images, accuracy\n{'labels':<10}{'first weights':>15}{'frozen':>10}{'fine-tuned':>12}")
table = []
for share in SHARES:
    first = accuracy(first_net(), share, SMALL_RATE if options.weights else RATE)
    net.set_weights(contrastive)
    frozen, tuned = accuracy(net, share, RATE, frozen=True), accuracy(net, share, SMALL_RATE)
    table.append({"labels": share, "first weights": first, "frozen": frozen, "fine-tuned": tuned})
    print(f"{share:<10.0%}{first:>15.3f}{frozen:>10.3f}{tuned:>12.3f}", flush=True)
if options.csv:
    write_table(options.csv, table)

print("\n20 nearest neighbours, accuracy")
for name, value in rows.items():
    print(f"{name:<18}{value:.3f}")
