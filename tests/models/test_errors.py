"""Mistakes are named before the first step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.models import contrastive_model
from keras_tfcl.models.checks import check_replicas

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")


def encoder(*layers):
    return keras.Sequential([keras.Input((4,)), *(layers or [keras.layers.Dense(3)])])


def build(model=None, **options):
    return contrastive_model(model or encoder, compile_options={"run_eagerly": True}, **options)


def fit_fails(message, x, y=None, model=None, **options):
    """`fit` raises, and no step was made."""
    model = model or build()
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, verbose=0, **options)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 8}, r"A queue needs a momentum.*Received: queue_size=8, momentum=None\. Pass momentum=0\.999"),
        ({"momentum": 1.0}, r"`momentum` must be a number in \[0, 1\), or None\. Received: momentum=1\.0"),
        ({"momentum": True}, r"`momentum` must be a number.*Received: momentum=True"),
        (
            {"momentum": 0.9, "queue_size": -1},
            r"`queue_size` must be an integer of at least 0\. Received: queue_size=-1",
        ),
        ({"momentum": 0.9, "queue_size": 2.5}, r"`queue_size` must be an integer.*Received: queue_size=2\.5"),
        ({"queue": "fifo"}, r"`queue` must be 'keys' or 'instances'\. Received: queue='fifo'"),
        ({"momentum": 0.5, "queue": "instances"}, r"needs the number of samples\. Received: queue_size=0"),
        (
            {"momentum": 0.5, "queue_size": 9, "queue": "instances", "supervised": True},
            r"not its label\. Received: queue='instances', supervised=True",
        ),
        ({"views": 1}, r"no sample has a positive\. Received: views=1, supervised=False"),
    ],
    ids=str,
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_seed():
    with pytest.raises(ValueError, match=r"`seed` must be an integer, or None\. Received: seed=1\.5"):
        keras_tfcl.ContrastiveModel(encoder(), seed=1.5)


def test_queue_of_no_whole_number_of_batches():
    message = r"`queue_size` must be a multiple of the keys of a batch.*queue_size=24 for 8 \* 2 keys.*queue_size=32"
    fit_fails(message, (X, X), batch_size=8, model=build(momentum=0.9, queue_size=24))
    dataset = tf.data.Dataset.from_tensor_slices((X, X)).map(lambda *views: (views,)).batch(8, drop_remainder=True)
    fit_fails(message, dataset, model=build(momentum=0.9, queue_size=24))
    message = r"queue_size=25 for batches \* 2 keys.*queue_size=24"
    dataset = tf.data.Dataset.from_tensor_slices((X, X + 1)).map(lambda *views: (views,)).batch(8)
    for batches in (dataset, ((views,) for (views,) in dataset)):
        fit_fails(message, batches, model=build(momentum=0.9, queue_size=25))


def test_views():
    fit_fails(r"views of a sample must have one shape\. Received: .*\(None, 4\).*\(None, 3\)", (X, X[:, :3]))
    fit_fails(r"data with one view of each sample\. Pass two views", (X,))
    fit_fails(r"needs 2 different views.*samples without views", X)


def test_too_little_data():
    fit_fails(r"at least one sample\. Received: an empty data set", (X[:0], X[:0]))
    views = tf.data.Dataset.from_tensor_slices((X, X)).map(lambda *views: (views,)).batch(8)
    fit_fails(r"at least one batch\. Received: an empty data set", views.take(0))
    fit_fails(r"must not exceed the number of samples\. Received: batch_size=17 for 16 samples", (X, X), batch_size=17)
    assert np.isfinite(build().fit((X, X + 1), verbose=0).history["loss"]).all()  # the default of 32 adapts


def test_what_keras_would_drop_or_misname():
    dataset = tf.data.Dataset.from_tensor_slices(((X, X),)).batch(8)
    message = r"Received: {} beside a .*Dataset\. Put them into its elements"
    fit_fails(message.format("sample_weight"), dataset, sample_weight=X[:, 0])
    fit_fails(message.format("y"), (X, X), validation_data=(dataset, X[:, 0]))
    with pytest.raises(ValueError, match=message.format("y")):
        build().evaluate(dataset, X[:, 0], verbose=0)
    fit_fails(r"cannot split off.*Received: validation_split=0\.2\. Split x yourself", (X, X), validation_split=0.2)


def test_nothing_to_train():
    model = build()
    model.encoder.trainable = False
    model.compile("sgd", keras_tfcl.InfoNCE(), run_eagerly=True)
    fit_fails(r"needs a weight to train\. Received: a model whose layers are all frozen", (X, X + 1), model=model)
    assert np.isfinite(model.evaluate((X, X + 1), verbose=0))


def test_shapes_of_outputs():
    with pytest.raises(ValueError, match=r"encoder must return one vector.*output \(None, 4, 1\)"):
        build(encoder(keras.layers.Reshape((4, 1))))
    inputs = keras.Input((4,))
    for outputs in ([inputs, inputs], {"a": inputs, "b": inputs}):
        with pytest.raises(ValueError, match=r"encoder must return one vector.*with one output"):
            build(keras.Model(inputs, outputs))
    fit_fails(
        r"projector must return one vector.*output \(.*, 3, 1\)",
        (X, X + 1),
        model=build(projector=keras.layers.Reshape((3, 1))),
    )
    with pytest.raises(ValueError, match=r"projector must return one vector.*output \(None, 3, 1\)"):
        build(projector=keras.layers.Reshape((3, 1)), momentum=0.9)


def test_momentum_needs_an_encoder_that_knows_its_inputs():
    with pytest.raises(ValueError, match=r"`momentum` needs an encoder that knows its inputs.*Received: Sequential"):
        build(keras.Sequential([keras.layers.Dense(3)]), momentum=0.9)


def test_losses_that_compare_nothing():
    model = keras_tfcl.ContrastiveModel(encoder(), momentum=0.9)
    with pytest.raises(ValueError, match=r"EmbeddingLoss\. Received: MeanSquaredError"):
        model.compile("sgd", loss=keras.losses.MeanSquaredError())
    model = keras_tfcl.ContrastiveModel(encoder(), momentum=0.5, queue_size=16, queue="instances", seed=0)
    model.compile("sgd", loss=keras_tfcl.InfoNCE(cross_view_only=True))
    fit_fails(r"needs the view of each candidate.*instance banks have no views", (X, X + 1), model=model)


def test_what_several_replicas_cannot_train():
    with pytest.raises(ValueError, match=r"Received: 2 replicas and an encoder that is not built.*keras\.Input"):
        check_replicas(2, built=False, jit_compile="auto")
    with pytest.raises(
        ValueError, match=r"jit_compile=True under a strategy of 2 replicas\. Leave jit_compile at 'auto'"
    ):
        check_replicas(2, built=True, jit_compile=True)
    check_replicas(2, built=True, jit_compile="auto")
