"""`block_size=`: what it accepts, what it chooses, and that it is saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.gradients import value_and_gradient
from keras_tfcl.ops import block_size as plans
from keras_tfcl.ops.block_size import choose_block, plan_block
from keras_tfcl.ops.pairwise import hardest as pairwise_hardest

Z = np.random.default_rng(0).normal(size=(10, 2, 4)).astype("float32")
LABELS = np.arange(10)


@pytest.mark.parametrize("block_size", [0, -1, 2.5, True, None, "tiles", "512"])
def test_refuses_anything_but_auto_dense_or_a_positive_integer(block_size):
    with pytest.raises(ValueError, match=r"`block_size` must be .* Received: block_size=.*'auto'"):
        keras_tfcl.InfoNCE(block_size=block_size)
    with pytest.raises(ValueError, match="`block_size`"):
        keras_tfcl.ops.contrastive_loss(Z[:, 0], anchor_labels=LABELS, block_size=block_size)


@pytest.mark.parametrize("block_size", ["auto", "dense", 3])
def test_is_saved(block_size):
    loss = keras_tfcl.InfoNCE(block_size=block_size)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.block_size == block_size
    assert float(again(LABELS, Z)) == float(loss(LABELS, Z))


def test_auto_is_dense_when_small_and_tiles_when_large_or_unknown(monkeypatch):
    monkeypatch.setattr(plans, "accelerator_memory", lambda: None)
    assert choose_block("auto", 64, 64) is None
    assert choose_block("auto", 1000, 1000) == 1000
    assert choose_block("auto", 8192, 8192) == 512
    assert choose_block("auto", 500, 500, symmetric=True) == 500
    assert choose_block("auto", 1000, 1000, symmetric=True) == 512
    assert choose_block("auto", None, None) == 512
    assert choose_block("dense", 8192, 8192) is None
    assert choose_block(7, 64, 64) == 7


@pytest.mark.parametrize("gib", [2, 8, 16, 40, 80, 192])
def test_a_gpu_gets_one_tile_while_three_matrices_fit_in_an_eighth_of_its_memory(gib):
    memory = gib * 2**30
    one_tile = int((memory / 8 / 12) ** 0.5)
    assert plan_block(one_tile, memory) == one_tile
    assert plan_block(2, memory) == 2  # never dense: that is float64
    for largest in (one_tile + 1, 10 * one_tile, None):
        block = plan_block(largest, memory)
        assert block in (2048, 4096, 8192)
        assert 12 * block**2 <= memory / 8
        assert block == 8192 or 12 * (2 * block) ** 2 > memory / 8


def test_a_small_gpu_still_gets_tiles_of_2048():
    assert plan_block(10**5, 2**28) == 2048


def test_auto_asks_for_the_device(monkeypatch):
    monkeypatch.setattr(plans, "accelerator_memory", lambda: 16 * 2**30)
    assert choose_block("auto", 8192, 100) == 8192
    monkeypatch.setattr(plans, "accelerator_memory", lambda: None)
    assert choose_block("auto", 8192, 100) == 512


@pytest.mark.parametrize(
    ("loss", "blocks"),
    [
        (keras_tfcl.InfoNCE(), 512),
        (keras_tfcl.InfoNCE(cross_view_only=True), 600),  # N against N: nothing can be left out
        (keras_tfcl.SigmoidContrastiveLoss(cross_view_only=False), 512),
        (keras_tfcl.SimpleContrastiveLoss(), 512),
    ],
)
def test_auto_takes_tiles_early_where_half_of_them_can_be_left_out(loss, blocks, monkeypatch):
    chosen = []
    monkeypatch.setattr(plans, "accelerator_memory", lambda: None)
    monkeypatch.setattr(plans, "plan_block", lambda *given: chosen.append(plan_block(*given)) or 512)
    loss(np.arange(300), np.random.default_rng(0).normal(size=(300, 2, 2)))
    assert chosen == [blocks]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_hardest_are_chosen_alike_in_strips_of_any_height(on_gpu, monkeypatch):
    monkeypatch.setattr(pairwise_hardest, "runs_on_gpu", lambda: on_gpu)
    labels, z = np.arange(150), np.random.default_rng(0).normal(size=(150, 2, 8)).astype("float32")
    results = []
    for block in (300, "dense"):  # strips of 128 anchors, the last of which overlaps, or of 300
        loss = keras_tfcl.HardNegativeInfoNCE(0.1, alpha=0.1, block_size=block)
        results.append(value_and_gradient(loss, z, labels))
    (value, gradient), (expected, slope) = results
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=1e-6 * np.abs(slope).max())


@pytest.mark.parametrize("negatives", ["all", keras_tfcl.HardNegatives(top_k=3)])
def test_no_gradient_is_lost_of_tensors_that_a_function_reads(negatives):
    gradients = []
    for block_size in ("dense", 4):
        t = tf.constant(0.3, "float64")
        with tf.GradientTape() as tape:
            tape.watch(t)
            scaling = lambda s: s / tf.cast(t, s.dtype)  # noqa: B023, E731
            losses = keras_tfcl.ops.contrastive_loss(
                Z[:, 0], anchor_labels=LABELS // 2, scaling=scaling, negatives=negatives, block_size=block_size
            )
        gradients.append(float(tape.gradient(losses, t)))
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-6)
    assert abs(gradients[0]) > 0.1


def test_a_tensor_as_temperature_gets_its_gradient_in_tiles():
    gradients = []
    for block_size in ("dense", 4):
        t = tf.Variable(0.3)
        with tf.GradientTape() as tape:
            losses = keras_tfcl.ops.contrastive_loss(
                Z[:, 0], anchor_labels=LABELS // 2, scaling=t, block_size=block_size
            )
        gradients.append(float(tape.gradient(losses, t)))
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-5)
    assert abs(gradients[0]) > 0.1
