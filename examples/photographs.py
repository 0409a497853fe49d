"""SimCLR on photographs without labels, beside lightly on torch with the same net, recipe and budget.

    python examples/photographs.py --data photos --tiny                  # a minute, to see that it runs
    python examples/photographs.py --data cifar10_jpeg --peers .venv-bench/bin/python

An epoch of CIFAR-10 takes about 150 seconds on one core. Stop the script whenever you like: the same command continues
each run after its last epoch. `--data` is a folder with train/label/file and test/label/file (or validation/), or the
name of a zip of one in ../shared/data, or in the folder named by KERAS_TFCL_DATA. CIFAR-10 is encoded as JPEG there, so
that its figures do not compare with published ones.

After every few epochs, all images are embedded, and results/photographs_DATA.csv and .png beside this script are
written again: kNN accuracy of each method and seed, raw pixels, the untrained net (epoch 0), and linear accuracy at the
first and the last epoch. `--peers` names a Python with torch, torchvision and lightly; without it lightly is left out.
Needs the extras tf, images, evaluation and plots.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_tfcl
from keras_tfcl.atomic_write import atomic_write
from keras_tfcl.data import image_batches, image_views
from keras_tfcl.evaluation import knn_accuracy, linear_accuracy
from keras_tfcl.models import build_backbone

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("KERAS_TFCL_DATA", HERE.parent.parent / "shared" / "data"))
TEMPERATURE = 0.2
LIGHTLY = "lightly NT-Xent"
LOSSES = {
    "keras_tfcl InfoNCE": keras_tfcl.InfoNCE(TEMPERATURE),
    "keras_tfcl arctanh 2": keras_tfcl.ArctanhInfoNCE(scale=2),  # the paper's
    "keras_tfcl arctanh 8": keras_tfcl.ArctanhInfoNCE(scale=8),  # the default of `keras-tfcl train`
}
METHODS = ("keras_tfcl InfoNCE", "keras_tfcl arctanh 8", LIGHTLY, "keras_tfcl arctanh 2")  # in this order
FIELDS = ("method", "seed", "epoch", "epochs", "loss", "knn", "linear")
Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description="SimCLR on photographs, beside lightly.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", default="resnet10")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--every", type=int, default=5, help="epochs between two points of a curve")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--peers", help="a Python with torch and lightly")
    parser.add_argument("--runs", type=Path, default=Path("runs/photographs"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.tiny:
        options.epochs, options.every, options.batch, options.seeds = 2, 1, 16, [0]
    options.folder = unpacked(options.data, options.runs / "data")
    split = "test" if (options.folder / "test").is_dir() else "validation"
    options.train, options.test = options.folder / "train", options.folder / split
    embed(keras.layers.Flatten(), run_folder("raw pixels", 0, options), 0, float("nan"), options)
    for seed in options.seeds:
        for method in options.methods:
            if method in LOSSES:
                fit(method, seed, options)
            elif options.peers:
                fit_lightly(seed, options)
            write(options)


def unpacked(data: str, where: Path) -> Path:
    """The folder of images; a zip of `SHARED` is unpacked once."""
    if Path(data).is_dir():
        return Path(data)
    folder, archive = where / data, SHARED / f"{data}.zip"
    if not folder.exists():
        if not archive.exists():
            sys.exit(f"--data must be a folder, or the name of a zip in {SHARED}. Received: {data}.")
        with zipfile.ZipFile(archive) as file:
            file.extractall(where / "part")
        (where / "part" / data).rename(folder)
    return folder


def data_name(options: argparse.Namespace) -> str:
    """The name of the data, with the backbone unless it is the default."""
    return options.folder.name + ("" if options.backbone == "resnet10" else f"_{options.backbone}")


def run_folder(method: str, seed: int, options: argparse.Namespace) -> Path:
    """Where a run keeps its model and the embeddings of all images after some epochs, EPOCH.npz."""
    name = f"{data_name(options)}_{options.image_size}_{method.replace(' ', '_')}_{options.epochs}_{seed}"
    folder = options.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fit(method: str, seed: int, options: argparse.Namespace) -> None:
    """Trains one run, from the epoch at which it was stopped."""
    folder = run_folder(method, seed, options)
    saved = folder / "model.keras"
    views = image_views(options.train, options.batch, options.image_size, seed=seed)
    if saved.exists():
        model = keras.models.load_model(saved)
    else:
        keras.utils.set_random_seed(seed)
        encoder = build_backbone(options.backbone, options.image_size)
        model = keras_tfcl.ContrastiveModel(encoder, projector=keras_tfcl.ProjectionHead((256, 128)), seed=seed)
        steps = options.epochs * len(views)
        warm_up = steps // 20
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warm_up, warmup_target=options.rate, warmup_steps=warm_up
        )
        model.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-4), loss=LOSSES[method])
        embed(encoder, folder, 0, float("nan"), options)

    def keep(epoch: int, logs: dict[str, float]) -> None:
        if (epoch + 1) % options.every == 0 or epoch + 1 == options.epochs:
            embed(model.encoder, folder, epoch + 1, logs["loss"], options)
            write(options)
        with atomic_write(saved) as draft:
            model.save(draft)
        print(f"{method}, seed {seed}, epoch {epoch + 1}/{options.epochs}: loss {logs['loss']:.4f}", flush=True)

    done = int(model.optimizer.iterations.numpy()) // len(views)
    if done < options.epochs:
        callback = keras.callbacks.LambdaCallback(on_epoch_end=keep)
        model.fit(views, initial_epoch=done, epochs=options.epochs, verbose=0, callbacks=[callback])


def embed(net: keras.Layer, folder: Path, epoch: int, loss: float, options: argparse.Namespace) -> None:
    """Writes the features of all images, as photographs_torch.py does for lightly."""
    file = folder / f"{epoch}.npz"
    if file.exists():
        return
    parts = {}
    for name, split in (("train", options.train), ("test", options.test)):
        batches = image_batches(split, 256, options.image_size, labels=True)
        features, labels = zip(*((np.asarray(net(x), "float16"), y.numpy()) for x, y in batches), strict=True)
        parts |= {name: np.concatenate(features), f"{name}_labels": np.concatenate(labels)}
    with atomic_write(file) as draft:
        np.savez(draft, loss=loss, **parts)


def fit_lightly(seed: int, options: argparse.Namespace) -> None:
    numbers = (options.image_size, options.epochs, options.every, options.batch, options.rate, TEMPERATURE, seed)
    folders = (options.train, options.test, run_folder(LIGHTLY, seed, options))
    command = [options.peers, HERE / "photographs_torch.py", *folders, *numbers]
    subprocess.run([str(part) for part in command], check=True)


def rows(method: str, seed: int, options: argparse.Namespace) -> Iterator[Row]:
    """The curve of a run so far. What was computed once is kept beside the features."""
    for file in sorted(run_folder(method, seed, options).glob("[0-9]*.npz"), key=lambda file: int(file.stem)):
        scores, epoch = file.with_suffix(".json"), int(file.stem)
        if not scores.exists():
            with np.load(file) as arrays:
                parts = [arrays[name] for name in ("train", "train_labels", "test", "test_labels")]
                found: Row = {"knn": knn_accuracy(*parts)}
                if epoch:
                    found["loss"] = float(arrays["loss"])
            if epoch in (0, options.epochs) and method != "raw pixels":  # a regression on raw pixels takes hours
                found["linear"] = linear_accuracy(*parts)
            scores.write_text(json.dumps(found))
        yield {
            "method": method,
            "seed": seed,
            "epoch": epoch,
            "epochs": options.epochs,
            **json.loads(scores.read_text()),
        }


def write(options: argparse.Namespace) -> None:
    """The table and the curves of all runs so far."""
    found = [*rows("raw pixels", 0, options)]
    found += [row for method in METHODS for seed in options.seeds for row in rows(method, seed, options)]
    path = options.results / f"photographs_{data_name(options)}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        writer.writeheader()
        for row in found:
            writer.writerow(
                {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()}
            )
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for color, method in enumerate(dict.fromkeys(row["method"] for row in found)):
        for seed in dict.fromkeys(row["seed"] for row in found if row["method"] == method):
            curve = [(row["epoch"], row["knn"]) for row in found if (row["method"], row["seed"]) == (method, seed)]
            label = str(method) if seed == options.seeds[0] else None
            if method == "raw pixels":
                axis.axhline(curve[0][1], color="black", linestyle=":", label=label)
            else:
                axis.plot(*zip(*curve, strict=True), color=f"C{color}", marker=".", label=label)
    axis.set(xlabel="epoch", ylabel="accuracy of 20 nearest neighbours")
    axis.legend()
    figure.savefig(path.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
