import numpy as np
import pytest
from scipy.special import hyp0f1

from keras_tfcl.metrics import Uniformity


@pytest.mark.parametrize("t", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("dimensions", [2, 16, 128])
def test_uniform_sphere_reaches_the_closed_form(dimensions, t):
    metric, rng = Uniformity(t), np.random.default_rng(dimensions)
    for _ in range(16):
        metric.update_state(np.arange(256), rng.normal(size=(256, dimensions)).astype("float32"))
    expected = 2 * t - np.log(hyp0f1(dimensions / 2, t**2))
    assert float(metric.result()) == pytest.approx(expected, rel=0.01)


def test_views_of_one_instance_do_not_lower_it():
    """Two equal views of each instance must not count as a collapse."""
    points = np.random.default_rng(0).normal(size=(64, 32)).astype("float32")
    once, twice = Uniformity(), Uniformity()
    once.update_state(np.arange(64), points)
    twice.update_state(np.arange(64), np.stack([points, points], axis=1))
    assert float(twice.result()) == pytest.approx(float(once.result()), rel=1e-5)


def test_labels_do_not_matter():
    points = np.random.default_rng(1).normal(size=(16, 4)).astype("float32")
    by_row, by_label = Uniformity(), Uniformity()
    by_row.update_state(np.arange(16), points)
    by_label.update_state(np.zeros(16, "int64"), points)
    assert float(by_row.result()) == float(by_label.result())


def test_largest_t_stays_finite_for_antipodes():
    metric = Uniformity(20.0)
    metric.update_state([0, 1], np.array([[1.0, 0.0], [-1.0, 0.0]], "float32"))
    assert float(metric.result()) == pytest.approx(80.0, rel=1e-5)
