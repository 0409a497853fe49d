"""Metrics on two replicas, in a process with two logical devices: the sums of both replicas count."""

import subprocess
import sys

import numpy as np
import pytest

CODE = """
import numpy as np, tensorflow as tf, keras_tfcl
from keras_tfcl.evaluation import pairs
pairs.STRIP = 40  # several strips for the 16 embeddings of a replica
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
z = np.random.default_rng(0).normal(size=(2, 8, 2, 5)) * np.geomspace(1, 0.1, 5)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    metrics = [keras_tfcl.EffectiveRank(5), keras_tfcl.Alignment(), keras_tfcl.Uniformity(), keras_tfcl.Tolerance(),
               keras_tfcl.ContrastiveAccuracy()]
parts = strategy.experimental_distribute_values_from_function(lambda c: tf.constant(z[c.replica_id_in_sync_group]))
@tf.function
def update(x):
    def on_replica(part):
        for metric in metrics:
            metric.update_state(tf.range(8) // 2, part)
    strategy.run(on_replica, args=(x,))
update(parts)
print(*(float(metric.result()) for metric in metrics))
"""


def reference():
    """Pairs within each replica, the means over the pairs of both; the rank of all embeddings together."""
    z = np.random.default_rng(0).normal(size=(2, 8, 2, 5)) * np.geomspace(1, 0.1, 5)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    sigma = np.linalg.svd(unit.reshape(-1, 5) - unit.reshape(-1, 5).mean(0), compute_uv=False)
    share = sigma / sigma.sum()
    distances, kernel, cosines, hits = [], [], [], []
    for replica in unit.reshape(2, 16, 5):
        for i in range(16):
            others = [j for j in range(16) if j != i]
            hits.append(max(others, key=lambda j, i=i: replica[i] @ replica[j]) // 4 == i // 4)
            distances += [np.sum((replica[i] - replica[j]) ** 2) for j in others if i // 4 == j // 4]
            kernel += [np.exp(-2 * np.sum((replica[i] - replica[j]) ** 2)) for j in others if i // 2 != j // 2]
            cosines += [replica[i] @ replica[j] for j in others if i // 2 != j // 2 and i // 4 == j // 4]
    rank = np.exp(-np.sum(share * np.log(share)))
    return [rank, np.mean(distances), -np.log(np.mean(kernel)), np.mean(cosines), np.mean(hits)]


@pytest.mark.slow
def test_replicas_add_up():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [float(value) for value in done.stdout.split()] == pytest.approx(reference(), rel=1e-5)
