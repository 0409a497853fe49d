"""Runs that are stopped, killed, saved or loaded continue with the same numbers."""

import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.augmenters import Noise
from keras_tfcl.models.seed_state import load_seeds, save_seeds

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")


def build(**options):
    """A bit of everything that has state: dropout, schedule, learned temperature, momentum encoder, queue."""
    options = {"momentum": 0.9, "queue_size": 64} | options
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(6)]
    encoder = keras.Sequential([keras.Input((6,)), *layers])
    model = keras_tfcl.ContrastiveModel(
        encoder, projector=keras_tfcl.ProjectionHead((8, 4)), augmenter=Noise(), **options
    )
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 20, warmup_target=0.02, warmup_steps=4)
    loss = keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.3))
    model.compile(keras.optimizers.Adam(schedule), loss=loss, jit_compile=False)
    return model


def fit(model, **options):
    return model.fit(X, **{"batch_size": 16, "verbose": 0, **options}).history["loss"]


@pytest.fixture(scope="module")
def uninterrupted():
    return fit(build(), epochs=4)


def test_saved_and_loaded_it_resumes_to_the_bit(uninterrupted, tmp_path):
    model = build()
    assert fit(model, epochs=2) == uninterrupted[:2]
    model.save(tmp_path / "run.keras")
    keras.utils.set_random_seed(99)
    loaded = keras.models.load_model(tmp_path / "run.keras")
    assert fit(loaded, epochs=4, initial_epoch=2) == uninterrupted[2:]


def test_seeds_reproduce_to_the_bit_and_one_iterator_serves_all_epochs(uninterrupted, monkeypatch):
    """keras.utils.set_random_seed fixes weights, order, views and dropout."""
    started, start = [], tf.data.Dataset.__iter__

    def counted(dataset):
        started.append(dataset)
        return start(dataset)

    monkeypatch.setattr(tf.data.Dataset, "__iter__", counted)
    assert fit(build(), epochs=4) == uninterrupted
    assert len(started) == 1


class Fails(keras.callbacks.Callback):
    """At the start of the third epoch, of which batches have been read by then."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("source", ["arrays", "balanced"])
def test_a_run_that_was_broken_off_goes_on_where_its_backup_is(source, uninterrupted, tmp_path):
    """The backup is restored after `fit` has made its data set."""

    def data():
        return X if source == "arrays" else keras_tfcl.data.balanced_batches(X, np.arange(48) % 6, 4, 4)

    def run(*callbacks):
        options = {} if source == "balanced" else {"batch_size": 16}
        return build().fit(data(), epochs=4, verbose=0, callbacks=[*callbacks], **options).history["loss"]

    expected = uninterrupted if source == "arrays" else run()
    with pytest.raises(RuntimeError, match="power cut"):
        run(keras.callbacks.BackupAndRestore(str(tmp_path / "backup")), Fails())
    assert run(keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))) == expected[2:]


def test_steps_that_run_together_do_not_cross_epochs(uninterrupted):
    """Two at a time of the three of an epoch."""
    model = build()
    model.steps_per_execution = 2
    losses = fit(model, epochs=4)
    assert len(losses) == 4 and int(model.optimizer.iterations) == 12


def test_a_model_that_was_not_compiled_loads(tmp_path):
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    keras_tfcl.ContrastiveModel(encoder, augmenter=Noise()).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not loaded.compiled
    np.testing.assert_array_equal(loaded.encoder(X), encoder(X))


@pytest.mark.slow
def test_weights_alone_resume_in_a_new_model(uninterrupted, tmp_path):
    """ModelCheckpoint(save_weights_only=True) writes optimizer and seeds too."""
    save = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True)
    fit(build(), epochs=2, callbacks=[save])
    model = build()
    fit(model, epochs=1)
    model.load_weights(tmp_path / "2.weights.h5")
    assert fit(model, epochs=4, initial_epoch=2) == uninterrupted[2:]


def test_files_without_seeds_load():
    """As files written before seeds were: the model's seeds stay as they are, everything else is handed on."""
    model, store = build(momentum=None, queue_size=0), {"0": "a weight"}
    (seed,) = (v for v in model.non_trainable_variables if v.name == "seed_generator_state")
    before = np.array(seed)
    assert load_seeds(model, store) == store
    np.testing.assert_array_equal(seed, before)
    save_seeds(model, store)
    store["seed_0"] = np.array([7, 9])
    assert load_seeds(model, store) == {"0": "a weight"}
    np.testing.assert_array_equal(seed, [7, 9])


RUN = """
import json, sys, time
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]  # for the helpers
import keras
from test_life_of_a_run import build, fit

folder, slow = sys.argv[2], sys.argv[3] == "slow"
model = build()

def on_batch(batch, logs):
    time.sleep(0.3 if slow else 0)

class Report(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs):
        print(json.dumps([epoch, logs["loss"]]), flush=True)

watch = keras.callbacks.LambdaCallback(on_train_batch_end=on_batch)
fit(model, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(folder), Report(), watch])
"""


@pytest.mark.slow
def test_a_killed_run_loses_at_most_the_epoch(uninterrupted, tmp_path):
    """kill -9 in the middle of the third epoch; started again, it repeats that epoch and ends with the same losses."""
    here = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, "-c", RUN, here, str(tmp_path / "backup")]
    with subprocess.Popen([*command, "slow"], stdout=subprocess.PIPE, text=True) as process:
        reported = [json.loads(process.stdout.readline()) for _ in range(2)]
        time.sleep(0.45)  # the second of three batches
        process.send_signal(signal.SIGKILL)
        assert not process.stdout.read()
    done = subprocess.run([*command, "fast"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reported += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [epoch for epoch, _ in reported] == [0, 1, 2, 3]
    np.testing.assert_allclose([loss for _, loss in reported], uninterrupted, rtol=1e-6)
