"""`keras-tfcl train`"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from keras_tfcl.cli.keras_file import without_native_logs
from keras_tfcl.cli.options import AsJson, Quiet
from keras_tfcl.export.runtime.requirements import require

STOPPED = 130  # 128 + SIGINT, as shells have it


def train(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of images, at any depth, labelled or not; a tar shard; a set of tensorflow_datasets."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="The folder of the run.")],
    backbone: Annotated[
        str, typer.Option(help="resnet18, resnet10 (for CPUs), or a model of keras.applications.")
    ] = "resnet18",
    weights: Annotated[
        str | None, typer.Option(help="A weights file of the backbone, or imagenet. [random weights]")
    ] = None,
    image_size: Annotated[int, typer.Option(min=8, help="Side of the views in pixels.")] = 96,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 100,
    batch_size: Annotated[int | None, typer.Option(min=2, help="[256, or what fits into memory]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="[1e-3 for a batch of 256, in proportion]")] = None,
    loss: Annotated[Literal["arctanh", "infonce"], typer.Option(help="infonce takes a temperature.")] = "arctanh",
    temperature: Annotated[float | None, typer.Option(help="Temperature of infonce. [0.2]")] = None,
    scale: Annotated[float | None, typer.Option(help="Scale of arctanh. [8]")] = None,
    min_area: Annotated[
        float, typer.Option(max=1, help="Least share of an image's area in a view; raise it for small objects.")
    ] = 0.08,
    flip: Annotated[bool, typer.Option(help="Whether half of the views are mirrored.")] = True,
    strength: Annotated[float, typer.Option(max=2, help="Strength of the colour changes, up to 2.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of weights, order and views.")] = 0,
    save_every: Annotated[
        float | None, typer.Option(min=0, help="Minutes between saves within an epoch. [after each epoch only]")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train an encoder on a folder of images without labels, and write it as a verified ONNX file.

    Writes model.keras, encoder.onnx, report.html, neighbours.png, history.json and run.json into the folder of the run.
    A run that was stopped, by Ctrl-C or by a crash, loses at most one epoch, or the minutes of --save-every: give the
    same command again, and it continues. Folders of classes are used for evaluation only. Needs TensorFlow.

    Examples: keras-tfcl train photos/ -o runs/photos

    keras-tfcl train photos/ -o runs/small --image-size 64 --epochs 200 --loss infonce --temperature 0.2

    keras-tfcl train fashion_mnist@train[:5000] -o runs/fashion
    """
    _check(loss, temperature, scale, learning_rate)
    with without_native_logs():
        run = require("keras_tfcl.cli.training_run", "tf")
        settings = run.Settings(
            source=str(Path(source).resolve()) if Path(source).exists() else source,
            backbone=backbone,
            weights=weights,
            image_size=image_size,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            loss=loss,
            temperature=temperature,
            scale=scale,
            min_area=min_area,
            flip=flip,
            strength=strength,
            seed=seed,
        )
        try:
            result = run.train(settings, out, quiet, save_every)
        except KeyboardInterrupt:
            print("Stopped. Give the same command again, and the run continues.", file=sys.stderr)
            raise typer.Exit(STOPPED) from None
    print(json.dumps({"ok": True} | result.to_dict()) if as_json else result)


def _check(loss: str, temperature: float | None, scale: float | None, learning_rate: float | None) -> None:
    if loss == "arctanh" and temperature is not None:
        raise ValueError(
            f"The arctanh loss has no temperature. Received: --temperature {temperature}. Pass --loss infonce with it."
        )
    if loss == "infonce" and scale is not None:
        raise ValueError(f"InfoNCE has no scale. Received: --scale {scale}. Pass --loss arctanh with it.")
    for name, value in (("temperature", temperature), ("scale", scale), ("learning-rate", learning_rate)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name} must be a positive number. Received: {value}. Leave it out for the default.")
