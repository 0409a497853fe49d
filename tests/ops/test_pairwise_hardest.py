"""The k-th largest of each row, without a sort."""

import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from keras_tfcl.ops.pairwise.hardest import kth_largest

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
    np.testing.assert_allclose(found, np.array(expected, dtype), rtol=0, atol=3e-7 if dtype == np.float32 else 1e-12)


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
