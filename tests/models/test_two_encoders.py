"""Two encoders: image and text, query and document."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.models import contrastive_model
from keras_tfcl.testing import reference

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(16, 6)).astype("float32")
TOKENS = RNG.integers(0, 20, (16, 4))
PAIRS = (IMAGES, TOKENS)


def image_encoder(size=5):
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(size)])


def text_encoder(size=7):
    return keras.Sequential(
        [keras.Input((4,), dtype="int32"), keras.layers.Embedding(20, size), keras.layers.GlobalAveragePooling1D()]
    )


def build(encoders=None, projector="own", eager=True, **options):
    return contrastive_model(
        encoders or (lambda: (image_encoder(), text_encoder())),
        projector=[(3,), (3,)] if projector == "own" else projector,
        optimizer=keras.optimizers.Adam(0.02),
        loss=keras_tfcl.InfoNCE(0.2, cross_view_only=True),
        compile_options={"run_eagerly": eager},
        **options,
    )


@pytest.fixture(scope="module")
def trained():
    model = build(eager=False)
    history = model.fit(PAIRS, batch_size=8, epochs=20, verbose=0).history["loss"]
    assert history[-1] < history[0] / 2
    return model


def test_loss_is_clip(trained):
    images, texts = (
        projector(encoder(x)).numpy()
        for encoder, projector, x in zip(trained.encoder, trained.projector, PAIRS, strict=True)
    )
    z = np.stack([images, texts], 1)
    expected = reference.contrastive_loss(np.arange(16), z, temperature=0.2, cross_view_only=True).losses.mean()
    assert trained.evaluate(PAIRS, batch_size=16, verbose=0) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(trained(PAIRS), z, rtol=1e-4, atol=1e-5)


def test_predict_gives_the_features_of_each_encoder(trained):
    features = trained.predict(PAIRS, verbose=0)
    for got, encoder, x in zip(features, trained.encoders, PAIRS, strict=True):
        expected = encoder.predict(x, verbose=0)
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    from_dataset = trained.predict(tf.data.Dataset.from_tensor_slices((PAIRS,)).batch(8), verbose=0)
    np.testing.assert_allclose(from_dataset[1], features[1], rtol=1e-5)


def test_save_load_and_resume(trained, tmp_path):
    trained.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    for got, expected in zip(loaded.predict(PAIRS, verbose=0), trained.predict(PAIRS, verbose=0), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    settings = {"batch_size": 8, "shuffle": False, "verbose": 0}
    expected = trained.fit(PAIRS, **settings).history["loss"]
    np.testing.assert_allclose(loaded.fit(PAIRS, **settings).history["loss"], expected, rtol=1e-4)


def test_one_encoder_for_both_sides(tmp_path):
    """The same model twice, queries and documents: one set of weights, after loading, too."""
    encoder = image_encoder()
    model = build((encoder, encoder), projector=keras_tfcl.ProjectionHead((3,)))
    assert len(model.trainable_weights) == 4
    pairs = (IMAGES, IMAGES[::-1].copy())
    model.fit(pairs, batch_size=8, verbose=0)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    assert loaded.encoder[0] is loaded.encoder[1]
    assert len(loaded.trainable_weights) == 4
    np.testing.assert_allclose(loaded.predict(pairs, verbose=0)[1], model.predict(pairs, verbose=0)[1], rtol=1e-5)


def test_momentum_and_queue():
    """Each side has a key encoder of its own; keys of images and texts alternate in the queue."""
    model = build(momentum=0.9, queue_size=32)
    assert np.isfinite(model.fit(PAIRS, batch_size=8, epochs=2, verbose=0).history["loss"]).all()
    keys = model.memory.key_encoder(PAIRS).numpy()
    assert keys.shape == (16, 2, 3)
    assert len(model.memory.key_encoder.weights) == len(model.trainable_weights)


def test_bad_pairs():
    with pytest.raises(ValueError, match=r"`encoder` must be a Keras model\. Received: <built-in function abs>"):
        keras_tfcl.ContrastiveModel(abs)
    with pytest.raises(ValueError, match=r"`projector` must be a Keras model or layer\. Received: 128"):
        keras_tfcl.ContrastiveModel(image_encoder(), 128)
    with pytest.raises(ValueError, match=r"must hold one for each view, at least two\. Received: 1\."):
        build((image_encoder(),))
    with pytest.raises(ValueError, match=r"one for each encoder\. Received: 3 projectors for 2"):
        build(projector=[(3,)] * 3)
    with pytest.raises(ValueError, match=r"2 encoders take ready-made pairs.*augmenter=<function"):
        build(augmenter=lambda x: x)
    with pytest.raises(ValueError, match=r"projections of the same size\. Received: sizes \[5, 7\]"):
        build(projector=None).fit(PAIRS, verbose=0)
    model = build()
    with pytest.raises(ValueError, match=r"2 encoders takes a tuple.*Received: a tuple of 3"):
        model.fit((IMAGES, TOKENS, TOKENS), verbose=0)
    with pytest.raises(ValueError, match=r"2 encoders takes a tuple.*Received: "):
        model.predict(IMAGES, verbose=0)
    with pytest.raises(ValueError, match=r"2 encoders takes a tuple.*Received: a single input\. Pass x=\(a, b\)"):
        model.fit(IMAGES, verbose=0)
