import keras
import numpy as np
import pytest

import keras_tfcl
from helpers.augmenters import Noise
from keras_tfcl.diagnostics import plot_temperature_sweep, temperature_sweep

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
LABELS = np.arange(64) % 2


def make_model(loss):
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
    model = keras_tfcl.ContrastiveModel(encoder, augmenter=Noise(), seed=0)
    model.compile("adam", loss, run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "sweep.csv"
    trained = []

    def counted(loss):
        trained.append(loss.temperature)
        return make_model(loss)

    options = {"epochs": 1, "batch_size": 32, "seeds": (0, 1)}
    rows = temperature_sweep(counted, X, (X, LABELS), path, [0.1, 1.0], **options)
    again = temperature_sweep(counted, X, (X, LABELS), path, [0.1, 1.0], **options)
    return rows, again, trained, path


def test_accuracy_of_data_sorted_by_class(tmp_path):
    labels = np.repeat(np.arange(2), 32)
    x = (10 * np.eye(6)[labels] + X).astype("float32")
    (row,) = temperature_sweep(make_model, x, (x, labels), tmp_path / "s.csv", [0.5], epochs=1, batch_size=32)
    assert row["knn_accuracy"] > 0.9 and row["held_out"] == 64


def test_one_run_a_row_and_none_twice(sweep):
    rows, again, trained, _ = sweep
    assert rows == again and trained == [0.1, 1.0, 0.1, 1.0]
    assert [(row["setting"], row["seed"]) for row in rows] == [("0.1", 0), ("1", 0), ("0.1", 1), ("1", 1)]


def test_rows_hold_what_the_functions_compute(sweep):
    rows, *_ = sweep
    keras.utils.set_random_seed(1)
    model = make_model(keras_tfcl.InfoNCE(1.0))
    loss = model.fit(X, batch_size=32, epochs=1, verbose=0).history["loss"][-1]
    spread = keras_tfcl.diagnostics.uniformity_tolerance(model.encoder(X), LABELS)
    row = rows[3]
    assert row["loss"] == pytest.approx(loss, abs=1e-5)
    assert (row["uniformity"], row["tolerance"]) == pytest.approx((spread.uniformity, spread.tolerance), abs=1e-4)
    assert row["positive"] > row["n1"] - 1 and row["n1"] >= row["n2"] >= row["n10"]


def test_another_length_is_refused(sweep):
    with pytest.raises(ValueError, match=r"epochs=2. Received: epochs=1"):
        temperature_sweep(make_model, X, (X, LABELS), sweep[3], [0.1], epochs=2, batch_size=32)


def test_plot_shows_means_over_seeds(sweep):
    rows = sweep[0]
    axes = plot_temperature_sweep(rows, "tolerance")
    by_hand = [np.mean([r["tolerance"] for r in rows if r["setting"] == s]) for s in ("0.1", "1")]
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), by_hand)
    np.testing.assert_allclose(axes.get_lines()[0].get_xdata(), [0.1, 1.0])
