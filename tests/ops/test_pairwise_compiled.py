"""The compiled kernel: no buffer of all pairs, no sort of them, no second trace; on CPU and, by compiler IR, on GPU."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.losses.loss_variables import variables_of_loss

ROWS, DIMENSION, BLOCK = 2048, 64, 128


class Cubic(keras_tfcl.Scaling):
    def __call__(self, similarity):
        return 5.0 * (similarity + similarity**3)


class NotTooSimilar(keras_tfcl.Negatives):
    def keep(self, similarity, mask):
        return mask & (similarity < 0.9)


LOSSES = {
    "temperature": lambda **k: keras_tfcl.InfoNCE(0.1, **k),
    "arctanh": lambda **k: keras_tfcl.ArctanhInfoNCE(**k),
    "hard": lambda **k: keras_tfcl.HardNegativeInfoNCE(0.1, alpha=0.1, **k),
    "reweighted": lambda **k: keras_tfcl.ContrastiveLoss(0.1, keras_tfcl.ReweightedNegatives(1.0, 0.1), **k),
    "cross-view": lambda **k: keras_tfcl.InfoNCE(0.1, cross_view_only=True, **k),
    "weighted decoupled": lambda **k: keras_tfcl.DecoupledInfoNCE(0.1, sigma=0.5, **k),
    "simple": lambda **k: keras_tfcl.SimpleContrastiveLoss(**k),
    "sigmoid": lambda **k: keras_tfcl.SigmoidContrastiveLoss(learnable=False, cross_view_only=True, **k),
    "dynamic": lambda **k: keras_tfcl.ContrastiveLoss(keras_tfcl.DynamicTemperature(), **k),
    "guarded": lambda **k: keras_tfcl.ContrastiveLoss(0.1, keras_tfcl.WithoutNearDuplicates(), **k),
    "own scaling": lambda **k: keras_tfcl.ContrastiveLoss(Cubic(), **k),
    "own negatives": lambda **k: keras_tfcl.ContrastiveLoss(0.1, NotTooSimilar(), **k),
}


def train_step(loss):
    def step(labels, z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(labels, z)
        return value, tape.gradient(value, z)

    return step


def hlo(name, platform):
    loss = LOSSES[name](block_size=BLOCK)
    # As constants: TensorFlow lowers no variables for a device that is not there.
    constants = [(variable, tf.constant(variable.numpy())) for variable in variables_of_loss(loss)]

    @tf.function(jit_compile=True)
    def step(labels, z):
        with keras.StatelessScope(state_mapping=constants):
            return train_step(loss)(labels, z)

    specs = tf.TensorSpec([ROWS // 2], tf.int64), tf.TensorSpec([ROWS // 2, 2, DIMENSION])
    return step.experimental_get_compiler_ir(*specs)(stage="hlo", platform_name=platform)


def largest_tensor(text):
    shapes = re.findall(r"[a-z]\d*\[([\d,]+)\]", text)
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


@pytest.mark.parametrize("platform", ["CPU", "GPU"])
@pytest.mark.parametrize("name", ["temperature", *(pytest.param(n, marks=pytest.mark.slow) for n in list(LOSSES)[1:])])
def test_no_tensor_of_all_pairs(name, platform):
    try:
        text = hlo(name, platform)
    except tf.errors.NotFoundError as error:
        pytest.skip(f"this TensorFlow was built without {platform}: {str(error)[:80]}")
    strip = 128 * ROWS if name == "hard" else 0
    assert largest_tensor(text) <= max(ROWS * DIMENSION, BLOCK**2, strip)
    # The dense form, in the same words, is seen:
    assert largest_tensor("f32[2048,2048]{1,0}") > ROWS * DIMENSION


def test_arctanh_takes_no_exponential_of_a_tile():
    text = hlo("arctanh", "CPU")
    tiles = [line for line in text.splitlines() if re.search(r"= f32\[128,128\]\{1,0\} exponential\(", line)]
    assert sum("exponential" in line for line in tiles) == 0
    assert "f32[128,128]" in text


@pytest.mark.parametrize("jit", [False, True])
def test_the_second_call_does_not_trace_again(jit):
    traces = []
    step = train_step(keras_tfcl.InfoNCE(block_size=8))

    @tf.function(jit_compile=jit)
    def counted(labels, z):
        traces.append(1)
        return step(labels, z)

    for seed in (0, 1):
        z = np.random.default_rng(seed).normal(size=(10, 2, 4)).astype("float32")
        counted(tf.range(10), tf.constant(z))
    assert len(traces) == 1


@pytest.mark.parametrize("block", [64, pytest.param(7, marks=pytest.mark.slow)])
def test_a_batch_of_unknown_size(block):
    step = tf.function(
        train_step(keras_tfcl.InfoNCE(block_size=block)),
        input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 2, 4])],
        jit_compile=True,
    )
    dense = train_step(keras_tfcl.InfoNCE(block_size="dense"))
    for count in (5, 12):
        z = tf.constant(np.random.default_rng(count).normal(size=(count, 2, 4)).astype("float32"))
        labels = tf.range(count, dtype=tf.int64)
        for a, e in zip(step(labels, z), dense(labels, z), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=2e-6)


PEAK = """
import numpy as np, tensorflow as tf, keras_tfcl, sys
from pathlib import Path
def peak():
    return int(next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")).split()[1])
loss = keras_tfcl.InfoNCE(block_size=int(sys.argv[1]) if sys.argv[1] != "dense" else "dense")
@tf.function(jit_compile=sys.argv[2] == "xla")
def step(labels, z):
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(labels, z)
    return tape.gradient(value, z)
make = lambda n: (tf.range(n), tf.constant(np.random.default_rng(0).normal(size=(n, 2, 32)).astype("float32")))
step(*make(300))
small, large = peak(), make(3000)
step(*large)
print(peak() - small)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["xla", "none"])
def test_peak_memory_of_a_process(compiler):
    def extra(block):
        command = [sys.executable, "-c", PEAK, block, compiler]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024

    one_matrix = 6000**2 * 4 / 2**20  # MiB, float32
    assert extra("256") < one_matrix
    assert extra("dense") > 2 * one_matrix  # what the test would see if all pairs were kept
