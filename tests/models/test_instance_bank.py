"""The instance bank, against a training loop of plain TensorFlow in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.batches import unit
from helpers.models import contrastive_model, dense_encoder

RNG = np.random.default_rng(0)
ROWS, BATCH = 12, 4
VIEWS = tuple(RNG.normal(size=(ROWS, 5)).astype("float32") for _ in range(2))
KERNEL = RNG.normal(size=(5, 3)).astype("float32")
MOMENTUM, TEMPERATURE = 0.5, 0.3


def build(views=2, queue_size=ROWS, **options):
    return contrastive_model(
        dense_encoder(5, kernel=KERNEL),
        optimizer=keras.optimizers.SGD(0.5),
        loss=keras_tfcl.InfoNCE(TEMPERATURE),
        compile_options=options,
        views=views,
        momentum=MOMENTUM,
        queue_size=queue_size,
        queue="instances",
    )


def reference(views, epochs):
    """Mean loss of each epoch, final kernel and bank of Wu et al.'s scheme."""
    kernel, bank, means = tf.Variable(KERNEL, dtype="float64"), {}, []
    for _ in range(epochs):
        losses = []
        for start in range(0, ROWS, BATCH):
            rows = range(start, start + BATCH)
            with tf.GradientTape() as tape:
                z = [tf.math.l2_normalize(view[start : start + BATCH].astype("float64") @ kernel, 1) for view in views]
                now = tf.math.l2_normalize(tf.add_n(z), 1).numpy()
                for place, row in enumerate(rows):
                    bank.setdefault(row, now[place])
                anchors = []
                for place, row in enumerate(rows):
                    for one in z:
                        logits = {other: tf.tensordot(one[place], v, 1) / TEMPERATURE for other, v in bank.items()}
                        anchors.append(tf.reduce_logsumexp(list(logits.values())) - logits[row])
                loss = tf.add_n(anchors) / len(anchors)
            kernel.assign_sub(0.5 * tape.gradient(loss, kernel))
            losses.append(float(loss))
            for place, row in enumerate(rows):
                moved = MOMENTUM * bank[row] + (1 - MOMENTUM) * now[place]
                bank[row] = moved / np.linalg.norm(moved)
        means.append(np.mean(losses))
    return means, kernel.numpy(), np.stack([bank[row] for row in range(ROWS)])


@pytest.mark.parametrize(
    ("count", "options"), [pytest.param(2, {"jit_compile": True}, marks=pytest.mark.slow), (1, {"run_eagerly": True})]
)
def test_training_with_an_instance_bank(count, options):
    views = VIEWS[:count]
    model = build(count, **options)
    history = model.fit(views, batch_size=BATCH, shuffle=False, epochs=2, verbose=0).history
    losses, kernel, bank = reference(views, epochs=2)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-4)
    np.testing.assert_allclose(model.encoder.layers[-1].kernel, kernel, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(model.memory.entries, bank, rtol=1e-3, atol=1e-5)


def test_shuffled_arrays_and_numbered_datasets_agree():
    """Rows keep their numbers when they are shuffled; a dataset brings its own."""
    model = build(run_eagerly=True)
    model.fit(VIEWS, batch_size=BATCH, verbose=0)
    numbered = build(run_eagerly=True)
    dataset = tf.data.Dataset.from_tensor_slices((tuple(view[::-1] for view in VIEWS), np.arange(ROWS)[::-1]))
    numbered.fit(dataset.batch(BATCH), verbose=0)
    for one in (model, numbered):
        assert one.memory.initialised.numpy().all()
        cosines = one.memory.entries.numpy() @ one.predict(np.mean(VIEWS, 0), verbose=0).T
        assert (cosines.argmax(1) == np.arange(ROWS)).mean() > 0.5


def test_float64_embeddings_are_stored_in_float32():
    encoder = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, dtype="float64")])
    model = contrastive_model(
        encoder, loss=keras_tfcl.InfoNCE(0.3), momentum=0.5, queue_size=ROWS, queue="instances", views=2
    )
    means = sum(unit(encoder(view).numpy()) for view in VIEWS)
    model.train_on_batch(VIEWS, np.arange(ROWS))
    assert means.dtype == "float64" and model.memory.entries.dtype == "float32"
    np.testing.assert_allclose(model.memory.entries, unit(means), rtol=1e-5, atol=1e-6)


def test_evaluation_needs_no_bank():
    """Instances of another set have no entries: views are compared with one another."""
    model = build(run_eagerly=True)
    plain = keras_tfcl.ContrastiveModel(model.encoder)
    plain.compile(loss=keras_tfcl.InfoNCE(TEMPERATURE), run_eagerly=True)
    data = tuple(view[:BATCH] for view in VIEWS)
    assert model.evaluate(data, verbose=0) == pytest.approx(plain.evaluate(data, verbose=0))


def test_evaluation_of_one_view_is_refused_before_the_first_step():
    model = build(views=1, run_eagerly=True)
    message = r"compare the views of a batch.*one view of each sample\. Pass ready-made views.*KNNEvaluation"
    for data in (VIEWS[0], ((VIEWS[0],),)):
        with pytest.raises(ValueError, match=message):
            model.fit(VIEWS[:1], validation_data=data, verbose=0)
    assert not model.memory.initialised.numpy().any()
    model.fit(VIEWS[:1], validation_data=(VIEWS,), verbose=0)


def test_save_load_and_resume(tmp_path):
    model = build(run_eagerly=True)
    settings = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    model.fit(VIEWS, **settings)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    np.testing.assert_array_equal(loaded.memory.initialised, model.memory.initialised)
    expected = model.fit(VIEWS, **settings).history["loss"]
    np.testing.assert_allclose(loaded.fit(VIEWS, **settings).history["loss"], expected, rtol=1e-5)


def test_bad_slots():
    model = build(queue_size=8, run_eagerly=True)
    with pytest.raises(ValueError, match=r"12 samples for queue_size=8\. Pass queue_size=12"):
        model.fit(VIEWS, verbose=0)
    with pytest.raises(ValueError, match=r"numbered automatically for an instance bank\. Received: y\. Leave y out"):
        model.fit(VIEWS, np.zeros(ROWS, "int64"), verbose=0)
    with pytest.raises(ValueError, match=r"takes the number of each sample.*Received: data without y"):
        model.fit(tf.data.Dataset.from_tensor_slices((VIEWS,)).batch(4).map(lambda views: (views,)), verbose=0)
