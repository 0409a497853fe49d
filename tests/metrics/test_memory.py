"""Memory of the pair metrics for a batch whose similarity matrix would take 576 MB, in a process of its own."""

import subprocess
import sys

CODE = """
import resource, numpy as np, tensorflow as tf, keras_tfcl
z = tf.constant(np.random.default_rng(0).normal(size=(6000, 2, 8)).astype("float32"))
labels = tf.range(6000, dtype=tf.int64) // 2
metrics = [keras_tfcl.ContrastiveAccuracy(), keras_tfcl.Alignment(), keras_tfcl.Uniformity(), keras_tfcl.Tolerance()]
def update(labels, z):
    for metric in metrics:
        metric.update_state(labels, z)
modes = {"eager": update, "graph": tf.function(update), "jit": tf.function(update, jit_compile=True)}
for name, mode in modes.items():
    mode(labels[:50], z[:50])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mode(labels, z)
    print(name, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_grows_with_the_batch_and_not_with_its_square():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    megabytes = {name: int(used) for name, used in map(str.split, done.stdout.splitlines())}
    assert set(megabytes) == {"eager", "graph", "jit"}
    assert max(megabytes.values()) < 150, megabytes
