"""EffectiveRank on two replicas, in a process with two logical devices."""

import subprocess
import sys

import numpy as np
import pytest

CODE = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_tfcl.metrics import EffectiveRank
rows = np.random.default_rng(0).normal(size=(2, 8, 5)) * np.geomspace(1, 0.1, 5)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    metric = EffectiveRank(5)
parts = strategy.experimental_distribute_values_from_function(lambda c: tf.constant(rows[c.replica_id_in_sync_group]))
tf.function(lambda x: strategy.run(lambda part: metric.update_state(tf.range(8), part), args=(x,)))(parts)
print(float(metric.result()))
"""


@pytest.mark.slow
def test_replicas_add_up():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = (np.random.default_rng(0).normal(size=(2, 8, 5)) * np.geomspace(1, 0.1, 5)).reshape(16, 5)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    sigma = np.linalg.svd(unit - unit.mean(0), compute_uv=False)
    share = sigma / sigma.sum()
    assert float(done.stdout.split()[-1]) == pytest.approx(np.exp(-np.sum(share * np.log(share))), rel=1e-6)
