"""Training on several replicas is training on one device with the whole batch: losses, gradients, weights, metrics."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("replicas_run.py")
CASES = [
    "infonce", "arctanh", "hard", "reweighted", "decoupled", "learned", "dynamic", "near_duplicates", "simple", "sum",
    "cross_view", "tiled", "sigmoid", "labels", "rules", "log_q", "slices", "queue", "bank",
]  # fmt: skip


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", **environment},
    )


def results(process):
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-3000:]
    runs = [json.loads(line.removeprefix("RESULT")) for line in output.splitlines() if line.startswith("RESULT")]
    return {(name, case): result for name, case, result in runs}


def assert_equal_training(one, several):
    for name in ("history", "gradient", "weights", "evaluation"):
        compare(one[name], several[name])


def compare(one, several):
    """Every number within 1e-5 of the largest of its list."""
    if isinstance(one, dict):
        assert one.keys() == several.keys()
        for key in one:
            compare(one[key], several[key])
    elif isinstance(one, list) and any(isinstance(part, dict) for part in one):
        for pair in zip(one, several, strict=True):
            compare(*pair)
    elif isinstance(one, list) and one and isinstance(one[0], list) and np.ndim(one[0]) != np.ndim(one[-1]):
        for pair in zip(one, several, strict=True):
            compare(*pair)
    else:
        a, b = np.asarray(one, "float64"), np.asarray(several, "float64")
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * np.abs(a).max())


def test_two_replicas():
    result = results(start("eager,2", "infonce"))
    assert_equal_training(result["eager", "infonce"], result["2", "infonce"])


@pytest.mark.slow
def test_two_and_four_replicas_in_every_case():
    # In processes of their own: TensorFlow refuses collectives of two sizes in one.
    result = results(start("1,2", *CASES)) | results(start("4", *CASES))
    for case in CASES:
        assert_equal_training(result["1", case], result["2", case])
        assert_equal_training(result["1", case], result["4", case])


@pytest.mark.slow
def test_two_workers():
    cases = ["infonce", "arctanh", "hard", "reweighted", "queue", "bank"]
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = [
        start("workers", *cases, TF_CONFIG=json.dumps({"cluster": {"worker": addresses}, "task": task}))
        for task in ({"type": "worker", "index": 0}, {"type": "worker", "index": 1})
    ]
    with ThreadPoolExecutor() as pool:  # all at once: a worker whose pipe is full would keep the other waiting
        one, *both = pool.map(results, [start("1", *cases), *workers])
    for result in both:
        for case in cases:
            assert_equal_training(one["1", case], result["workers", case])


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
