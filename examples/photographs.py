"""SimCLR on photographs, beside lightly on torch with the same net, recipe and budget.

    python examples/photographs.py --data imagenette64 --peers .venv-bench/bin/python
    python examples/photographs.py --data cifar10_jpeg --peers .venv-bench/bin/python
    python examples/photographs.py --data photos/ --tiny          # a minute, to see that it runs

100 epochs of CIFAR-10 take about two hours a run on two idle cores, and there are nine runs. Stop it whenever you
like: the same command goes on after the last epoch of each run. `--data` is a folder with train/label/file and
test/label/file (or validation/), or a zip of one in ../shared/data, or in the folder named by KERAS_TFCL_DATA. CIFAR-10
there is encoded as JPEG, so that its figures do not compare with published ones.

Writes results/photographs_DATA.csv and .png beside this script: kNN and linear accuracy of each run, raw pixels and the
untrained net. `--peers` names a Python with torch, torchvision and lightly; without it lightly is left out. Needs the
extras tf, data, evaluation and plots.
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
from keras_tfcl.data import image_batches, image_views
from keras_tfcl.evaluation import knn_accuracy, linear_accuracy
from keras_tfcl.models import build_backbone

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("KERAS_TFCL_DATA", HERE.parent.parent / "shared" / "data"))
RESULTS, RUNS = HERE / "results", Path("runs/photographs")
LOSSES = {"infonce": keras_tfcl.InfoNCE(0.2), "arctanh": keras_tfcl.ArctanhInfoNCE()}
FIELDS = ("method", "seed", "epoch", "loss", "knn", "linear")


def main() -> None:
    parser = argparse.ArgumentParser(description="SimCLR on photographs, beside lightly.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--every", type=int, default=10, help="epochs between two points of a curve")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--peers", help="a Python with torch and lightly")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.tiny:
        options.epochs, options.every, options.batch, options.seeds = 2, 1, 16, [0]
    folder = unpacked(options.data)
    train, test = (folder / name for name in ("train", "test" if (folder / "test").is_dir() else "validation"))
    rows = [*baselines(train, test, options.image_size)]
    for seed in options.seeds:
        for loss in LOSSES:
            out = RUNS / f"{folder.name}_{loss}_{options.epochs}_{seed}"
            fit(train, test, out, loss, seed, options)
            rows += scored(f"keras_tfcl, {loss}", seed, out)
        if options.peers:
            out = RUNS / f"{folder.name}_lightly_{options.epochs}_{seed}"
            numbers = [options.image_size, options.epochs, options.every, options.batch, options.rate, seed]
            script = [options.peers, HERE / "photographs_torch.py", train, test, out, *numbers]
            subprocess.run([str(part) for part in script], check=True)
            rows += scored("lightly, NT-Xent", seed, out)
        write(rows, options.results / f"photographs_{folder.name}")


def unpacked(data: str) -> Path:
    """The folder of images; a zip of `SHARED` is unpacked once."""
    if Path(data).is_dir():
        return Path(data)
    folder = RUNS / "data" / data
    if not folder.exists():
        archive = SHARED / f"{data}.zip"
        if not archive.exists():
            sys.exit(f"--data must be a folder, or a zip in {SHARED}. Received: {data}.")
        with zipfile.ZipFile(archive) as file:
            file.extractall(RUNS / "data")
    return folder


def fit(train: Path, test: Path, out: Path, loss: str, seed: int, options: argparse.Namespace) -> None:
    """One run, which goes on where it was stopped."""
    keras.utils.set_random_seed(seed)
    views = image_views(train, options.batch, options.image_size, seed=seed)
    encoder = build_backbone("resnet10", options.image_size)
    model = keras_tfcl.ContrastiveModel(encoder, projector=keras_tfcl.ProjectionHead((256, 128)), seed=seed)
    steps = options.epochs * len(views)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=options.rate, warmup_steps=steps // 20
    )
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-4), loss=LOSSES[loss])

    def keep(epoch: int, logs: dict[str, float]) -> None:
        if (epoch + 1) % options.every == 0:
            parts = {}
            for name, split in (("train", train), ("test", test)):
                batches = [*image_batches(split, 256, options.image_size, labels=True).as_numpy_iterator()]
                parts[name] = np.concatenate([encoder.predict_on_batch(x) for x, _ in batches])
                parts[f"{name}_labels"] = np.concatenate([y for _, y in batches])
            out.mkdir(parents=True, exist_ok=True)
            np.savez(out / f"{epoch + 1}.npz", loss=logs["loss"], **parts)

    model.fit(
        views,
        epochs=options.epochs,
        verbose=2,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=keep),
            keras.callbacks.BackupAndRestore(str(out / "backup"), delete_checkpoint=False),
        ],
    )


def baselines(train: Path, test: Path, image_size: int) -> Iterator[dict[str, object]]:
    """Raw pixels, and the net with random weights."""
    keras.utils.set_random_seed(0)
    nets = {"raw pixels": keras.layers.Flatten(), "untrained encoder": build_backbone("resnet10", image_size)}
    for name, net in nets.items():
        parts: list[np.ndarray] = []
        for split in (train, test):
            batches = [*image_batches(split, 256, image_size, labels=True).as_numpy_iterator()]
            parts += [np.concatenate([np.array(net(x)) for x, _ in batches]), np.concatenate([y for _, y in batches])]
        linear = "" if name == "raw pixels" else linear_accuracy(*parts)
        yield dict(zip(FIELDS, (name, 0, 0, "", knn_accuracy(*parts), linear), strict=True))


def scored(method: str, seed: int, out: Path) -> Iterator[dict[str, object]]:
    """The curve of a run; its last point has the linear accuracy too."""
    files = sorted(out.glob("*.npz"), key=lambda file: int(file.stem))
    for file in files:
        with np.load(file) as arrays:
            parts = [arrays[name] for name in ("train", "train_labels", "test", "test_labels")]
            loss = float(arrays["loss"])
        linear = linear_accuracy(*parts) if file == files[-1] else ""
        yield dict(zip(FIELDS, (method, seed, int(file.stem), loss, knn_accuracy(*parts), linear), strict=True))


def write(rows: list[dict[str, object]], path: Path) -> None:
    """The table and the curves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for color, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        for seed in dict.fromkeys(row["seed"] for row in rows if row["method"] == method):
            curve = [row for row in rows if row["method"] == method and row["seed"] == seed]
            x, y = [row["epoch"] for row in curve], [row["knn"] for row in curve]
            if len(curve) == 1:
                axis.axhline(y[0], color=f"C{color}", linestyle=":", label=method)
            else:
                axis.plot(x, y, color=f"C{color}", label=method if seed == curve[0]["seed"] == 0 else None)
    axis.set(xlabel="epoch", ylabel="kNN accuracy")
    axis.legend()
    figure.savefig(path.with_suffix(".png"), dpi=120)
    print(json.dumps([row for row in rows if row["linear"] != "" or row["epoch"] == 0], indent=1))


if __name__ == "__main__":
    main()
