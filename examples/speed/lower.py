"""Writes the losses' value-and-gradient programs as StableHLO: `python examples/speed/lower.py OUT`.

It needs TensorFlow and this library, and no GPU. `run_lowered.py` runs the programs where there is a GPU and jaxlib,
but no TensorFlow: what is measured there is the program of XLA for a loss, compiled by jaxlib's XLA. Writes one file
for each program, and index.json that lists them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_tfcl
from keras_tfcl.losses.loss_variables import variables_of_loss
from keras_tfcl.ops.block_size import plan_block


def losses(count: int, memory: int) -> dict[str, Callable[..., Any]]:
    """The losses of `count` pairs, with the tiles that `block_size="auto"` takes on a GPU with so many bytes."""
    block, half = plan_block(2 * count, memory), plan_block(count, memory)
    return {
        "infonce": keras_tfcl.InfoNCE(0.1, block_size=block),
        "infonce, tiles of 512": keras_tfcl.InfoNCE(0.1, block_size=512),
        "arctanh": keras_tfcl.ArctanhInfoNCE(block_size=block),
        "hardest 10 %": keras_tfcl.HardNegativeInfoNCE(0.1, alpha=0.1, block_size=block),
        "clip": keras_tfcl.InfoNCE(0.07, cross_view_only=True, block_size=half),
        "siglip": keras_tfcl.SigmoidContrastiveLoss(cross_view_only=True, learnable=False, block_size=half),
    }


def lower(loss: Callable[..., Any], count: int, dimension: int, platform: str) -> str:
    """The StableHLO of value and gradient by embeddings `(count, 2, dimension)`."""
    spec = tf.TensorSpec([count, 2, dimension], tf.float32)
    # As constants: TensorFlow lowers no variables for a device that is not there.
    constants = [(variable, variable.numpy()) for variable in variables_of_loss(loss)]

    @tf.function(jit_compile=True, input_signature=[spec], autograph=False)
    def program(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with keras.StatelessScope(state_mapping=constants), tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(tf.range(count), z)
        return value, tape.gradient(value, z)

    text = program.experimental_get_compiler_ir(spec)(stage="stablehlo", platform_name=platform)
    return re.sub(r" loc\([^)]*\)|^#loc.*$", "", text, flags=re.MULTILINE)  # locations only make it large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[128])
    parser.add_argument("--memory", type=float, default=40, help="GiB of the GPU, by which tiles are planned")
    parser.add_argument("--platform", default="GPU", choices=["GPU", "CPU"])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    index = []
    for count in arguments.pairs:
        for dimension in arguments.dimensions:
            for name, loss in losses(count, int(arguments.memory * 2**30)).items():
                file = f"{count}_{dimension}_{re.sub('[^a-z0-9]+', '_', name)}.mlir"
                text = lower(loss, count, dimension, arguments.platform)
                (arguments.out / file).write_text(text)
                index.append({"file": file, "name": name, "pairs": count, "dimension": dimension})
                print(file, f"{len(text) >> 10} KiB", flush=True)
    (arguments.out / "index.json").write_text(json.dumps(index, indent=1))


if __name__ == "__main__":
    main()
