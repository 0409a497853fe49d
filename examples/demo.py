"""The whole way in one command: train an encoder on real images, evaluate it, export it, embed with the file.

    make demo                                         # 5,000 MNIST digits, arctanh InfoNCE, no temperature
    make demo ARGS="--loss infonce --temperature 0.2"
    make demo ARGS="--dataset cifar10 --epochs 20"    # any tensorflow_datasets name
    make demo ARGS="--dataset folder:photos"          # photos/label/file.jpg, or photos/split/label/file.jpg

Writes model.keras, encoder.onnx, report.md and plots to runs/demo/. Labels are used for evaluation only.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import demo_plots
import keras
import numpy as np

import keras_tfcl
from keras_tfcl.data.images import ImageData, load_images
from keras_tfcl.evaluation import knn_accuracy
from keras_tfcl.export import OnnxEncoder, export_onnx
from keras_tfcl.layers import image_augmenter


def main() -> None:
    options = parse_options()
    keras.utils.set_random_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    data = load_images(options.dataset, image_size=options.image_size, limit=options.limit)
    shape = data.train_images.shape[1:]
    print(f"{data.name}: {len(data.train_images)} training and {len(data.test_images)} held-out images {shape}")

    encoder = build_encoder(shape)
    accuracy = {"raw pixels": knn(data, data.train_images, data.test_images)}
    accuracy["untrained encoder"] = knn(data, *embed_all(encoder, data))

    model = keras_tfcl.ContrastiveModel(
        encoder,
        projector=keras_tfcl.ProjectionHead((128, 64)),
        augmenter=image_augmenter(data.kind, shape),
        seed=options.seed,
    )
    steps = options.epochs * max(1, len(data.train_images) // options.batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)),
        loss=chosen_loss(options),
        metrics=[keras_tfcl.ContrastiveAccuracy()],
    )
    watched = keras_tfcl.KNNEvaluation((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    started = time.perf_counter()
    history = model.fit(
        data.train_images, batch_size=options.batch_size, epochs=options.epochs, callbacks=[watched]
    ).history
    training_seconds = time.perf_counter() - started

    train, test = embed_all(encoder, data)
    baselines = dict(accuracy)
    accuracy["trained encoder"] = knn(data, train, test)
    model.save(options.output / "model.keras")
    report = export_onnx(model, options.output / "encoder.onnx", samples=data.test_images[:64].astype("float32"))
    served = OnnxEncoder(options.output / "encoder.onnx")
    rows = [
        *[(f"kNN accuracy, {name}", f"{value:.3f}") for name, value in accuracy.items()],
        ("uniformity (0 = collapsed to a point)", f"{measure(keras_tfcl.Uniformity(), data.test_labels, test):.3f}"),
        ("tolerance (mean cosine within a class)", f"{measure(keras_tfcl.Tolerance(), data.test_labels, test):.3f}"),
        ("ONNX parity, largest difference", f"{np.abs(served.encode(data.test_images) - test).max():.1e}"),
        ("ONNX, smallest cosine to Keras in verification", f"{report.min_cosine:.7f}"),
        ("training seconds", f"{training_seconds:.0f}"),
    ]
    demo_plots.write_all(options.output, history, baselines, data, train, test)
    write_report(options, data, rows)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist5k", help="mnist5k, a tensorflow_datasets name, or folder:PATH")
    parser.add_argument("--loss", default="arctanh", choices=["arctanh", "infonce", "hard"])
    parser.add_argument("--temperature", type=float, help="of infonce (0.1) and of hard (none: arctanh)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--image-size", type=int, help="side in pixels; needed only where images differ in size")
    parser.add_argument("--limit", type=int, help="at most so many training images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    if options.loss == "arctanh" and options.temperature is not None:
        parser.error("--temperature goes with --loss infonce or hard: the arctanh loss has none.")
    return options


def chosen_loss(options: argparse.Namespace) -> keras_tfcl.ContrastiveLoss:
    if options.loss == "infonce":
        return keras_tfcl.InfoNCE(0.1 if options.temperature is None else options.temperature)
    if options.loss == "hard":
        return keras_tfcl.HardNegativeInfoNCE(options.temperature)
    return keras_tfcl.ArctanhInfoNCE()


def build_encoder(shape: tuple[int, ...]) -> keras.Model:
    """A small convolutional net that two cores train in minutes; images come in as they are, 0..255."""
    layers = keras.layers
    x = inputs = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 255)(x)
    for filters, strides in ((32, 2), (64, 2), (256, 1)):
        x = layers.Conv2D(filters, 5, strides=strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)  # runs of a thousand steps are short for 0.99
        x = layers.ReLU()(x)
    x = layers.GlobalMaxPooling2D()(x)
    # Maxima of ReLUs are positive: centred, they use the whole sphere.
    return keras.Model(inputs, layers.BatchNormalization(momentum=0.9)(x), name="encoder")


def embed_all(encoder: keras.Model, data: ImageData) -> tuple[np.ndarray, np.ndarray]:
    """L2-normalised features of the training and the held-out images."""
    features = (encoder.predict(x, batch_size=256, verbose=0) for x in (data.train_images, data.test_images))
    train, test = (np.asarray(keras_tfcl.ops.l2_normalize(x)) for x in features)
    return train, test


def knn(data: ImageData, train: np.ndarray, test: np.ndarray) -> float:
    return knn_accuracy(train, data.train_labels, test, data.test_labels)


def measure(metric: keras.Metric, labels: np.ndarray, embeddings: np.ndarray) -> float:
    metric.update_state(labels, embeddings)
    return float(metric.result())


def write_report(options: argparse.Namespace, data: ImageData, rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    print("\n" + "\n".join(f"{name:<{width}}  {value:>10}" for name, value in rows))
    loss = chosen_loss(options)
    lines = [
        f"# {data.name}, {type(loss).__name__}",
        "",
        f"{len(data.train_images)} training and {len(data.test_images)} held-out images, {options.epochs} epochs of "
        f"batches of {options.batch_size}, seed {options.seed}. Labels were used for evaluation only (20 nearest "
        "neighbours by cosine).",
        "",
        "| | |",
        "|---|---|",
        *[f"| {name} | {value} |" for name, value in rows],
        "",
        *[f"![{name}]({name}.png)" for name in demo_plots.NAMES],
    ]
    (options.output / "report.md").write_text("\n".join(lines) + "\n")
    print(f"\nWritten to {options.output}/: model.keras, encoder.onnx, report.md and {len(demo_plots.NAMES)} plots")


if __name__ == "__main__":
    main()
