"""`block_size=`: what it accepts, what it chooses, and that it is saved."""

import keras
import numpy as np
import pytest

import keras_tfcl
from keras_tfcl.ops.block_size import choose_block

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


def test_auto_is_dense_when_small_and_tiles_when_large_or_unknown():
    assert choose_block("auto", 64, 64) is None
    assert choose_block("auto", 1000, 1000) == 1000
    assert choose_block("auto", 8192, 8192) == 512
    assert choose_block("auto", None, None) == 512
    assert choose_block("dense", 8192, 8192) is None
    assert choose_block(7, 64, 64) == 7


class Cubic(keras_tfcl.Scaling):
    def __call__(self, similarity):
        return 5.0 * (similarity + similarity**3)


class Halved(keras_tfcl.Temperature):
    def __call__(self, similarity):
        return 0.5 * super().__call__(similarity)


class NotTooSimilar(keras_tfcl.Negatives):
    def keep(self, similarity, mask):
        return mask & (similarity < 0.5)


@pytest.mark.parametrize("scaling", [Cubic(), Halved(0.1), 0.1])
@pytest.mark.parametrize("negatives", ["all", NotTooSimilar()])
def test_what_the_kernel_does_not_know_falls_back_to_the_dense_form(scaling, negatives):
    tiled, dense = (keras_tfcl.ContrastiveLoss(scaling, negatives, block_size=size) for size in (4, "dense"))
    assert float(tiled(LABELS, Z)) == pytest.approx(float(dense(LABELS, Z)), rel=1e-5)
