"""Values and gradients equal those of independent implementations.

These are pytorch-metric-learning, lightly, open_clip, sentence-transformers and keras-rs.

The peers (extra `peers`) may live in an environment of their own: name its Python in KERAS_TFCL_PEERS_PYTHON.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import value_and_derivative
from keras_tfcl.ops import Candidates, contrastive_loss

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(16, 3, 12)), RNG.integers(0, 4, 16)
NUMBERS = np.arange(16)
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


def check(peers, case, function):
    """Compares the case with a function of X."""
    if case not in peers:
        pytest.skip(f"{case.rsplit('_', 1)[0]} is not installed: pip install 'keras-tfcl[peers]'")
    value, gradient = value_and_derivative(function, X)
    expected = peers[f"{case}_gradient"]
    differences = abs(float(value) / float(peers[case]) - 1), np.abs(gradient - expected).max() / np.abs(expected).max()
    print(f"{case}: value {differences[0]:.1e}, gradient {differences[1]:.1e}")
    assert max(differences) <= TOLERANCE


def check_views(peers, case, loss, labels):
    """Compares it with the loss of the first two views."""
    check(peers, case, lambda x: float64(loss)(labels, x[:, :2]))


def float64(loss):
    return type(loss).from_config({**loss.get_config(), "dtype": "float64"})


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pml_ntxent", "lightly_ntxent"])
def test_nt_xent(peers, case):
    """All three are the mean over 2B anchors; SimCLR's own code returns twice that."""
    check_views(peers, case, keras_tfcl.InfoNCE(0.1), NUMBERS)


@pytest.mark.slow
def test_sup_con(peers):
    """Of pytorch-metric-learning SupConLoss, not NTXentLoss: with several positives its NTXentLoss has one term for
    each positive pair, with only that positive in the denominator. Its mean leaves anchors without loss out, as ours.
    """
    check_views(peers, "pml_supcon", keras_tfcl.InfoNCE(0.1), LABELS)


@pytest.mark.slow
def test_dcl(peers):
    """lightly 1.6: one sum over both views, the mean of both directions. (Older versions add a sum for each view.)"""
    check_views(peers, "lightly_dcl", keras_tfcl.DecoupledInfoNCE(0.1), NUMBERS)


@pytest.mark.slow
def test_dclw(peers):
    """lightly holds the weights constant in the gradient, as ours."""
    check_views(peers, "lightly_dclw", keras_tfcl.DecoupledInfoNCE(0.1, sigma=0.5), NUMBERS)


@pytest.mark.slow
def test_clip(peers):
    """ClipLoss wants normalised features and a scale: 10 is temperature 0.1. The mean of both directions."""
    check_views(peers, "open_clip_clip", keras_tfcl.InfoNCE(0.1, cross_view_only=True), NUMBERS)


@pytest.mark.slow
def test_siglip(peers):
    """SigLipLoss divides the sum over the matrix by B; so does the mean over both directions of sums over a row."""
    check_views(peers, "open_clip_siglip", keras_tfcl.SigmoidContrastiveLoss(cross_view_only=True), NUMBERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "scaling"),
    [
        ("pml_cosface", keras_tfcl.CosineMargin(1 / 64, 0.35)),
        ("pml_arcface", keras_tfcl.AngularMargin(1 / 64, np.radians(28.6))),
    ],
)
def test_margins(peers, case, scaling):
    """Their losses have one proxy for each class: candidates of their own."""
    mean = lambda x: contrastive_loss(x[:, 0], x[:4, 2], LABELS, np.arange(4), scaling=scaling)  # noqa: E731
    check(peers, case, lambda x: tf.reduce_mean(mean(x)))


@pytest.mark.slow
@pytest.mark.parametrize(("case", "symmetric"), [("mnrl", False), ("symmetric", True)])
def test_multiple_negatives_ranking(peers, case, symmetric):
    loss = float64(keras_tfcl.InfoNCE(0.05, roles=("anchor", "positive", "negative"), symmetric=symmetric))
    check(peers, f"sentence_transformers_{case}", lambda x: loss(NUMBERS, x))


@pytest.mark.slow
def test_scored_pairs(peers):
    check_views(peers, "sentence_transformers_cosent", keras_tfcl.CoSENTLoss(), LABELS)
    check_views(peers, "sentence_transformers_pairs", keras_tfcl.PairContrastiveLoss(), LABELS > 1)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "rule"), [("correction", {}), ("both", {"same_label": "ignore"})])
def test_sampling_probability_and_accidental_hits(peers, case, rule):
    """Two-tower retrieval: one direction, the logarithm of (label + 1) / 10 subtracted from a candidate's logits."""
    loss = float64(keras_tfcl.InfoNCE(0.1, roles=("anchor", "positive"), **rule))
    views, labels = np.arange(32), LABELS if rule else NUMBERS
    log_probability = np.log((LABELS + 1) / 10).repeat(2)

    def of(x):
        rows = tf.reshape(x[:, :2], (32, 12))
        others = labels.repeat(2), views, views % 2
        candidates = Candidates(rows, *others, samples=views // 2, log_probability=log_probability)
        return loss.against(labels, x[:, :2], candidates)

    check(peers, f"keras_rs_{case}", of)
