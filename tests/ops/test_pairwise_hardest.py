"""The k-th largest of each row, without a sort."""

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.ops.hard import TIE
from keras_tfcl.ops.pairwise.hardest import kth_largest
from keras_tfcl.testing import reference

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("jit", [False, True])
def test_equals_a_sort_with_a_k_for_each_row(dtype, jit):
    values = RNG.uniform(-1, 1, (7, 50)).astype(dtype)
    values[1] = 0.25  # all tied
    values[2, ::3] = 0.0
    values[3] = -np.abs(values[3])
    values[3, :2] = np.nextafter(dtype(1), dtype(2)), -np.nextafter(dtype(1), dtype(2))  # rounded beyond the ends
    values[4, :40] = -2.0  # excluded
    k = np.array([1, 25, 17, 50, 10, 2, 49], "int32")
    number = np.array([50, 50, 50, 50, 10, 50, 50], "int32")
    guess = np.array([0, 0.25, 0, 0, 0, 0.7, -0.9], dtype), np.array([0.6, 0, 0.6, 0.3, 1e-3, 0.1, 0.6], dtype)
    found = tf.function(kth_largest, jit_compile=jit)(values.T, number, k, *guess)
    expected = [np.sort(row)[::-1][n - 1] for row, n in zip(values, k, strict=True)]
    # It ends where what is left counts as tied.
    np.testing.assert_allclose(found, np.array(expected, dtype), rtol=0, atol=TIE[np.dtype(dtype).name] / 8)


@pytest.mark.parametrize("top_k", [1, 3, 1000])
def test_ties_stay_and_k_above_the_number_of_negatives_keeps_all(top_k):
    rows = RNG.normal(size=(6, 4)).astype("float32")
    z = np.concatenate([rows, rows, rows[:1], rows[:1]])  # every negative has a copy, one of them four
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3])
    results = [
        keras_tfcl.HardNegativeInfoNCE(0.2, top_k=top_k, block_size=block, reduction=None)(labels, z).numpy()
        for block in ("dense", 4)
    ]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", ["dense", 4])
def test_a_choice_of_more_negatives_than_there_are_keeps_all(block):
    class Many(keras_tfcl.Negatives):
        def hardest(self, count):
            return 100 + 0 * count

    z, labels = RNG.normal(size=(6, 2, 4)).astype("float32"), np.arange(6)
    chosen, every = (keras_tfcl.ContrastiveLoss(0.2, n, block_size=block)(labels, z) for n in (Many(), "all"))
    np.testing.assert_allclose(chosen, every, rtol=1e-6)


def test_labels_that_agree_in_32_bits_are_different():
    """The strips compare int32, to which these labels must not simply be cast."""
    z, labels = np.random.default_rng(0).normal(size=(8, 2, 5)).astype("float32"), np.arange(8) // 2
    loss = keras_tfcl.HardNegativeInfoNCE(0.2, top_k=3, block_size=4)
    assert float(loss((labels + 1) * 2**32, z)) == float(loss(labels, z))


def test_a_share_that_is_a_whole_number_of_negatives_is_that_number():
    """In floating point 0.07 * 100 is a little more than 7."""
    counts = [(0.07, 100, 7), (0.07, 101, 8), (0.1, 30, 3), (0.55, 100, 55), (1.0, 5, 5), (0.01, 1, 1)]
    assert [int(keras_tfcl.HardNegatives(alpha=alpha).hardest(n)) for alpha, n, _ in counts] == [k for *_, k in counts]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("apart", "tied"), [(0.7, True), (1.4, False)])
def test_a_tie_is_the_same_in_tiles_in_whole_rows_and_in_metrics(dtype, apart, tied):
    """The second negative is nearly as near as the first: `apart` is in tolerances."""
    s = np.array([0.9, 0.5, 0.5 - apart * TIE[dtype]])
    others, anchor = np.stack([s, np.sqrt(1 - s * s)], 1).astype(dtype), np.array([[1.0, 0.0]], dtype)
    loss = keras_tfcl.ops.contrastive_loss(
        anchor, others, [0], [0, 1, 1], scaling=1.0, negatives=keras_tfcl.HardNegatives(top_k=1), block_size=4
    )
    assert float(loss[0]) == pytest.approx(np.log(np.exp(s[: 2 + tied]).sum()) - s[0], rel=1e-6)
    kept = keras_tfcl.ops.hardest(others[:, :1].T, np.array([[False, True, True]]), top_k=1).numpy()
    assert kept.tolist() == [[False, True, tied]]
    z = np.concatenate([anchor, others[1:]])  # a positive with the higher cosine, which is right unless they are tied
    right = keras_tfcl.evaluation.contrastive_accuracy([0, 0, 1], z, sample_weight=[1.0, 0.0, 0.0]).value
    assert float(right) == (not tied)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("count", [2**15 - 1, 2**15])
def test_counts_of_many_candidates(jit, count):
    """From 2^15 on two counts no longer share an int32."""
    values = RNG.uniform(-1, 1, (count, 2)).astype("float32")
    k, guess = np.array([1, count - 5], "int32"), (np.zeros(2, "float32"), np.full(2, 0.6, "float32"))
    found = tf.function(kth_largest, jit_compile=jit)(values, np.full(2, count, "int32"), k, *guess)
    np.testing.assert_allclose(found, [values[:, 0].max(), np.sort(values[:, 1])[5]], rtol=0, atol=TIE["float32"] / 8)


@pytest.mark.parametrize("jit", [False, True])
def test_strips_that_overlap(jit):
    z = tf.constant(RNG.normal(size=(95, 2, 6)))  # 190 anchors: strips of 128, and tiles of 64 of which one is not full

    def run(block, jit):
        loss = keras_tfcl.HardNegativeInfoNCE(0.2, alpha=0.1, block_size=block, reduction=None, dtype="float64")

        @tf.function(jit_compile=jit, autograph=False)
        def step(z):
            with tf.GradientTape() as tape:
                tape.watch(z)
                losses = loss(tf.range(95), z)
            return losses, tape.gradient(losses, z)

        return step(z)

    for tiled, dense in zip(run(64, jit), run("dense", False), strict=True):
        np.testing.assert_allclose(tiled, dense, rtol=1e-8, atol=1e-10)


def value_and_gradient(loss, labels, z, weights):
    z = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        losses = loss(labels, z)
        total = tf.reduce_sum(losses * weights)
    return losses.numpy(), tape.gradient(total, z).numpy()


CHOICES = {
    "temperature": (0.2, {"temperature": 0.2}),
    "arctanh": ("arctanh", {"arctanh_scale": 2.0}),
}
# The slope of arctanh changes too fast beside a copy for a finite difference.
CASES = [
    ("temperature", 0.0, {"alpha": 0.3}),
    ("temperature", 0.0, {"top_k": 4}),
    ("temperature", 1e-5, {"top_k": 4}),
    ("arctanh", 1.0, {"alpha": 0.3}),
]


@pytest.mark.parametrize(("name", "apart", "hard"), CASES)
def test_gradient_is_the_derivative_where_the_choice_stays(name, apart, hard):
    """With copies, near-copies and no copies among the negatives.

    A finite difference shows the gradient only of anchors whose negatives stay the same: untying a tie drops negatives,
    and the loss jumps there.
    """
    scaling, theirs = CHOICES[name]
    rng = np.random.default_rng(5)
    z, labels = np.repeat(rng.normal(size=(6, 2, 5)), 3, axis=0), np.arange(18) // 2
    z += apart * rng.normal(size=z.shape)
    loss = keras_tfcl.ContrastiveLoss(
        scaling, keras_tfcl.HardNegatives(**hard), block_size=10, reduction=None, dtype="float64"
    )

    def negatives(z):
        geometry = reference.Geometry(labels, z)
        choice = hard.get("alpha"), hard.get("top_k")
        return [reference.hardest(n, geometry.cosines[i], *choice) for i, _, n in geometry.anchors()]

    direction, step = rng.normal(size=z.shape), 1e-7
    ends = z + step * direction, z - step * direction
    stays = np.array([a == b == c for a, b, c in zip(negatives(z), *map(negatives, ends), strict=True)])
    assert stays.any()
    assert stays.all() == (apart > 0)
    weights = rng.uniform(0.1, 1, (18, 2))
    losses, gradient = value_and_gradient(loss, labels, z, weights)
    expected = reference.contrastive_loss(labels, z, weights=weights, **theirs, **hard)
    np.testing.assert_allclose(losses, expected.losses, rtol=1e-7)
    np.testing.assert_allclose(gradient, expected.gradient * 36, rtol=1e-6, atol=1e-6)
    weights *= stays.reshape(weights.shape)
    up, down = (value_and_gradient(loss, labels, end, weights)[0] for end in ends)
    slope = np.sum(weights * (up - down)) / (2 * step)
    _, gradient = value_and_gradient(loss, labels, z, weights)
    assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-4)
