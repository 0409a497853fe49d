"""Your own images: from a folder to an encoder in one ONNX file, in a run that may be killed and started again.

    python examples/image_folder.py photos        # photos/label/file.jpg, or photos/{train,test}/label/file.jpg
    python examples/image_folder.py               # a folder of digits that it writes itself
    python examples/image_folder.py --tiny        # a few seconds, to see that it runs

The names of the folders are labels, and serve evaluation only. The digits only show how it is done: they are small,
centred and alike, and raw pixels tell them apart best. Writes encoder.onnx to runs/image_folder/, into a folder named
after the folder of images. Needs the extras tf, data, evaluation, export and serve.
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_tfcl
from keras_tfcl.evaluation import knn_accuracy
from keras_tfcl.export import OnnxEncoder, export_onnx
from keras_tfcl.layers import image_augmenter

TINY = "--tiny" in sys.argv
FOLDERS = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
EPOCHS, BATCH, SIDE = (1, 64, 16) if TINY else (20, 128, 32)
# One for each folder and setting: a backup must not be taken up by another run.
NAME = "_".join(Path(FOLDERS[0]).resolve().parts[1:]) if FOLDERS else "digits"
OUTPUT = Path("runs/image_folder") / (f"{NAME}-tiny" if TINY else NAME)


def write_digits(folder: Path) -> None:
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = folder / str(label) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(file, image[..., None], scale=True)


keras.utils.set_random_seed(0)
with tempfile.TemporaryDirectory() as temporary:
    if not FOLDERS:
        write_digits(Path(temporary))
    # Cropped to squares of one size; a fifth of each class is held out unless there is a test folder.
    data = keras_tfcl.data.load_images(
        f"folder:{FOLDERS[0] if FOLDERS else temporary}",
        image_size=SIDE,
        limit=256 if TINY else None,
        kind=None if FOLDERS else "digits",
    )
shape = data.train_images.shape[1:]
print(f"{len(data.train_images)} training and {len(data.test_images)} held-out images {shape}, {data.kind}")

layers = keras.layers
encoder = keras.Sequential([keras.Input(shape), layers.Rescaling(1 / 255)], name="encoder")
for filters in (32, 64, 128):
    encoder.add(layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False))
    encoder.add(layers.BatchNormalization(momentum=0.9))
    encoder.add(layers.ReLU())
encoder.add(layers.GlobalMaxPooling2D())


def knn(train: np.ndarray, test: np.ndarray) -> float:
    return knn_accuracy(train, data.train_labels, test, data.test_labels, k=5)


def embed(x: np.ndarray) -> np.ndarray:
    return encoder.predict(x, batch_size=256, verbose=0)


rows = {
    "raw pixels": knn(*(x.reshape(len(x), -1).astype("float32") for x in (data.train_images, data.test_images))),
    "untrained encoder": knn(embed(data.train_images), embed(data.test_images)),
}

model = keras_tfcl.ContrastiveModel(
    encoder, projector=keras_tfcl.ProjectionHead((128, 64)), augmenter=image_augmenter(data.kind, shape), seed=0
)
model.compile(keras.optimizers.Adam(2e-3), loss=keras_tfcl.InfoNCE(0.2))
# After a kill or a power cut, start the same command again: it goes on after the last finished epoch, with the losses
# it would have had.
backup = keras.callbacks.BackupAndRestore(str(OUTPUT / "backup"))
model.fit(data.train_images, batch_size=BATCH, epochs=EPOCHS, callbacks=[backup], verbose=2)
rows["trained encoder"] = knn(embed(data.train_images), embed(data.test_images))

OUTPUT.mkdir(parents=True, exist_ok=True)
print(export_onnx(model, OUTPUT / "encoder.onnx", samples=data.test_images[:64].astype("float32")))
served = OnnxEncoder(OUTPUT / "encoder.onnx")  # needs neither TensorFlow nor Keras
rows["ONNX file"] = knn(served.encode(data.train_images), served.encode(data.test_images))

print(f"\n5 nearest neighbours of {len(data.test_images)} held-out images, accuracy")
for name, accuracy in rows.items():
    print(f"{name:<18}{accuracy:.3f}")
