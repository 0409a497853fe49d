"""A loss that is no number ends the run with a reason, and no checkpoint is overwritten."""

import keras
import numpy as np
import pytest

import keras_tfcl
from helpers.models import contrastive_model, dense_encoder
from keras_tfcl.callbacks import StopOnNonFinite

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")


def build(learning_rate=0.01, **options):
    optimizer, loss = keras.optimizers.SGD(learning_rate), keras_tfcl.InfoNCE(0.1)
    return contrastive_model(lambda: dense_encoder(4, 3), optimizer=optimizer, loss=loss, compile_options=options)


def fit(model, x=X, **options):
    return model.fit((x, x[::-1] + 0.1), batch_size=16, shuffle=False, verbose=0, **options)


def broken(*rows):
    x = X.copy()
    x[list(rows), 1] = np.nan
    return x


@pytest.fixture(scope="module")
def model():
    return build()


def test_names_batch_rows_and_remedy(model):
    """Rows 37 and 40 are rows 5 and 8 of the third batch; reversed, rows 26 and 23 of the second view's second."""
    before = model.get_weights()
    with pytest.raises(FloatingPointError) as error:
        fit(model, broken(37, 40))
    model.set_weights(before)
    message = str(error.value)
    assert message.startswith("The loss became nan in epoch 1, batch 2 (optimizer step 1). Inputs: NaN or Inf in 2 of")
    assert "in 2 of 16 samples, the first is row 7. Embeddings: NaN or Inf in 2 of 16 samples" in message
    assert "Look for NaN or Inf in the data" in message


def test_names_weights_that_are_ruined():
    """Step 0 is finite; its gradient times the learning rate is not."""
    model = build(jit_compile=False)
    model.optimizer.learning_rate = np.inf
    with pytest.raises(FloatingPointError, match=r"batch 2 .*all finite\. Embeddings: NaN or Inf in 16 of 16.*ruined"):
        fit(model)


def test_names_a_row_that_spreads():
    """The very first step: no gradient before it ruined anything. One row overflows, and with it the batch's mean."""
    layers = [keras.layers.Dense(3, kernel_initializer="ones"), keras.layers.BatchNormalization()]
    encoder = keras.Sequential([keras.Input((4,)), *layers])
    model = keras_tfcl.ContrastiveModel(encoder, seed=0)
    model.compile("sgd", loss=keras_tfcl.InfoNCE(0.1), jit_compile=False)
    x = X.copy()
    x[5] = 3e38
    with pytest.raises(
        FloatingPointError, match=r"step 0.*all finite\. .* in 16 of 16.*or the encoder overflows on some"
    ):
        fit(model, x)


def test_names_several_batches_with_steps_per_execution():
    model = build(steps_per_execution=4, jit_compile=False)
    with pytest.raises(FloatingPointError, match=r"epoch 1, batches 1 to 4 \(optimizer step 1\)"):
        fit(model, broken(37))


def test_weights_are_checked_before_others_save_them(model, tmp_path):
    """The last gradient of the epoch is what ruins them: no loss ever shows it."""
    before, rate = model.get_weights(), float(model.optimizer.learning_rate)
    spoil = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batch == 3 and model.encoder.weights[1].assign([np.nan, 0, 0])
    )
    save = keras.callbacks.ModelCheckpoint(str(tmp_path / "last.weights.h5"), save_weights_only=True)
    with pytest.raises(FloatingPointError, match=r"last gradient of epoch 1.*in 1 of \d+ weights, the first is .*bias"):
        fit(model, callbacks=[spoil, save])
    assert not list(tmp_path.iterdir())
    model.set_weights(before)
    model.optimizer.learning_rate = rate


def test_the_backup_of_the_last_good_epoch_is_kept(tmp_path):
    """Epoch 1 is good; NaN comes in epoch 2. What BackupAndRestore holds then is epoch 1's end."""
    model = build(jit_compile=False)
    after_first = []

    def poison(epoch, logs):
        after_first.append(model.get_weights())
        model.optimizer.learning_rate = np.inf

    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    with pytest.raises(FloatingPointError, match="epoch 2, batch"):
        fit(model, epochs=3, callbacks=[backup, keras.callbacks.LambdaCallback(on_epoch_end=poison)])
    assert not np.isfinite(model.get_weights()[0]).all()
    model.load_weights(tmp_path / "backup" / "latest.weights.h5")
    for found, expected in zip(model.get_weights(), after_first[0], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_fit_leaves_the_matter_to_the_callback_it_is_given(model):
    before = model.get_weights()
    history = fit(model, broken(37), callbacks=[keras.callbacks.TerminateOnNaN()])
    assert np.isnan(history.history["loss"][0])
    model.set_weights(before)
    with pytest.raises(FloatingPointError, match="batch 2"):
        fit(model, broken(37), callbacks=[StopOnNonFinite()])
    model.set_weights(before)


def test_any_keras_model():
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    encoder.compile("sgd", loss="mse")
    with pytest.raises(FloatingPointError, match=r"The loss became nan in epoch 1, batch 3\. Look for NaN"):
        encoder.fit(
            broken(37), np.zeros((64, 3)), batch_size=16, shuffle=False, verbose=0, callbacks=[StopOnNonFinite()]
        )


def test_a_finite_run_is_left_alone(model):
    callback = StopOnNonFinite()
    assert np.isfinite(fit(model, epochs=2, callbacks=[callback]).history["loss"]).all()
    assert model.first_failure.read() is None


HIDING = {
    "relu6": [keras.layers.Dense(8, "relu6")],
    "clipping": [keras.layers.Lambda(lambda x: keras.ops.clip(x, -1, 1))],
    "max pooling": [keras.layers.Reshape((4, 1)), keras.layers.MaxPooling1D(2), keras.layers.Flatten()],
    "nan_to_num": [keras.layers.Lambda(keras.ops.nan_to_num)],
}


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("layers", HIDING.values(), ids=HIDING)
def test_finds_inputs_that_a_layer_turns_into_numbers(layers, value):
    """The batch that holds them ends the run, although its loss may be a number."""
    model = keras_tfcl.ContrastiveModel(keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(3)]))
    model.compile("adam", keras_tfcl.InfoNCE(0.1))
    x = X.copy()
    x[21] = value
    with pytest.raises(FloatingPointError, match=r"epoch 1, batch 2 .*step 1.*Inputs: NaN or Inf in 1 of 16.*row 5"):
        model.fit((x, X + 0.1), batch_size=16, shuffle=False, verbose=0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_large_numbers_are_finite(dtype):
    """Their sum overflows, but none of them has."""
    layers = [keras.layers.Rescaling(1e-5 if dtype == "float16" else 1e-38), keras.layers.Dense(3)]
    model = keras_tfcl.ContrastiveModel(keras.Sequential([keras.Input((4,), dtype=dtype), *layers]))
    model.compile("sgd", keras_tfcl.InfoNCE(0.5))
    x = (np.sign(X) * (6e4 if dtype == "float16" else 3e38) * np.linspace(0.5, 1, 4)).astype(dtype)
    assert np.isfinite(model.fit((x, x[:, ::-1]), batch_size=16, verbose=0).history["loss"]).all()
    assert model.first_failure.read() is None


def test_stands_before_callbacks_that_save(model, tmp_path):
    """Wherever it stands in the list, no checkpoint holds what comes after the failure."""
    before = model.get_weights()
    save = keras.callbacks.ModelCheckpoint(str(tmp_path / "{batch}.weights.h5"), save_weights_only=True, save_freq=1)
    with pytest.raises(FloatingPointError, match=r"batch 2 .*use a checkpoint from before this run, or start again"):
        fit(model, broken(37), callbacks=[save, StopOnNonFinite()])
    assert [path.name for path in tmp_path.iterdir()] == ["1.weights.h5"]
    model.set_weights(before)
    save = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.encoder.weights[0].assign_add([[np.nan] * 3] * 4)
    )
    with pytest.raises(
        FloatingPointError, match=r"epoch 2, batch 1 .*use a checkpoint from the end of epoch 1 or earlier"
    ):
        fit(model, epochs=2, callbacks=[save])
    model.set_weights(before)
