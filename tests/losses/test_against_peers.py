"""Values and gradients equal those of independent implementations: pytorch-metric-learning, lightly, open_clip.

The peers (extra `peers`) may live in an environment of their own: name its Python in KERAS_TFCL_PEERS_PYTHON.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_tfcl
from helpers.gradients import value_and_gradient

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(16, 2, 12)), RNG.integers(0, 4, 16)
# float64 on both sides: 1e-15. Only the sigmoid loss differs by 5e-8: its trained scale and bias are float32.
TOLERANCE = 1e-7


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    np.savez(folder / "input.npz", x=X, labels=LABELS)
    python = os.environ.get("KERAS_TFCL_PEERS_PYTHON", sys.executable)
    command = [python, str(Path(__file__).with_name("peers.py")), str(folder / "input.npz"), str(folder / "output.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named 'torch'" in done.stderr:
        pytest.skip("torch is not installed: pip install 'keras-tfcl[peers]'")
    assert done.returncode == 0, done.stderr
    return np.load(folder / "output.npz")


def check(peers, case, loss, labels):
    if case not in peers:
        pytest.skip(f"{case.split('_')[0]} is not installed: pip install 'keras-tfcl[peers]'")
    value, gradient = value_and_gradient(loss, X, labels)
    expected = peers[f"{case}_gradient"]
    differences = abs(float(value) / float(peers[case]) - 1), np.abs(gradient - expected).max() / np.abs(expected).max()
    print(f"{case}: value {differences[0]:.1e}, gradient {differences[1]:.1e}")
    assert max(differences) <= TOLERANCE


def float64(loss):
    return type(loss).from_config({**loss.get_config(), "dtype": "float64"})


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pml_ntxent", "lightly_ntxent"])
def test_nt_xent(peers, case):
    """All three are the mean over 2B anchors; SimCLR's own code returns twice that."""
    check(peers, case, float64(keras_tfcl.InfoNCE(0.1)), np.arange(16))


@pytest.mark.slow
def test_sup_con(peers):
    """Of pytorch-metric-learning SupConLoss, not NTXentLoss: with several positives its NTXentLoss has one term for
    each positive pair, with only that positive in the denominator. Its mean leaves anchors without loss out, as ours.
    """
    check(peers, "pml_supcon", float64(keras_tfcl.InfoNCE(0.1)), LABELS)


@pytest.mark.slow
def test_dcl(peers):
    """lightly 1.6: one sum over both views, the mean of both directions. (Older versions add a sum for each view.)"""
    check(peers, "lightly_dcl", float64(keras_tfcl.DecoupledInfoNCE(0.1)), np.arange(16))


@pytest.mark.slow
def test_dclw(peers):
    """lightly holds the weights constant in the gradient, as ours."""
    check(peers, "lightly_dclw", float64(keras_tfcl.DecoupledInfoNCE(0.1, sigma=0.5)), np.arange(16))


@pytest.mark.slow
def test_clip(peers):
    """ClipLoss wants normalised features and a scale: 10 is temperature 0.1. The mean of both directions."""
    check(peers, "open_clip_clip", float64(keras_tfcl.InfoNCE(0.1, cross_view_only=True)), np.arange(16))


@pytest.mark.slow
def test_siglip(peers):
    """SigLipLoss divides the sum over the matrix by B; so does the mean over both directions of sums over a row."""
    check(peers, "open_clip_siglip", float64(keras_tfcl.SigmoidContrastiveLoss(cross_view_only=True)), np.arange(16))
