"""Views made in the input pipeline and in the training step, in turn in one process.

    TF_NUM_INTRAOP_THREADS=1 python examples/speed/augment_on.py --steps 5 --rounds 2    # results/speed_augment_on.csv

For each side of the images, a step of training with `augment_on="host"` and with `augment_on="device"` from the same
arrays: seconds of wall time and of processor time, the least of some rounds. Without a GPU both share the processor.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_tfcl
from keras_tfcl.models import build_backbone

RESULTS = Path(__file__).resolve().parents[1] / "results" / "speed_augment_on.csv"
FIELDS = ("device", "cores", "tensorflow", "side", "batch", "augment_on", "seconds", "processor_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description="Views in the input pipeline and in the training step.")
    parser.add_argument("--sides", type=int, nargs="*", default=[32, 96])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    gpus = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = []
    for side in options.sides:
        models = {where: build(side, where) for where in ("host", "device")}
        images = np.random.default_rng(0).integers(0, 256, (options.steps * options.batch, side, side, 3), "uint8")
        least = {where: (float("inf"), float("inf")) for where in models}
        for _ in range(options.rounds + 1):  # the first round compiles
            for where, model in models.items():
                wall, processor = time.perf_counter(), time.process_time()
                model.fit(images, batch_size=options.batch, epochs=1, verbose=0)
                spent = time.perf_counter() - wall, time.process_time() - processor
                least[where] = tuple(map(min, least[where], spent))
        for where, spent in least.items():
            found = [part / options.steps for part in spent]
            rows.append((device, cores, tf.__version__, side, options.batch, where, *found))
            print(f"{side:>4} {where:<7}{found[0]:9.4f} s a step, {found[1]:.4f} s of the processor", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        writer.writerows([[f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in rows])


def build(side: int, augment_on: str) -> keras_tfcl.ContrastiveModel:
    keras.utils.set_random_seed(0)
    model = keras_tfcl.ContrastiveModel(
        build_backbone("resnet10", side),
        projector=keras_tfcl.ProjectionHead((256, 128)),
        augmenter=keras_tfcl.layers.image_augmenter("photos", (side, side, 3)),
        seed=0,
        augment_on=augment_on,
    )
    model.compile("adam", loss=keras_tfcl.InfoNCE(0.2))
    return model


if __name__ == "__main__":
    main()
