"""ContrastiveModel through compile, fit, evaluate, predict, save and load."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tfcl
from helpers.augmenters import Noise
from helpers.models import contrastive_model, image_encoder
from keras_tfcl.testing import reference

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1), "uint8")
LABELS = np.arange(48) % 3
VIEWS = (IMAGES.astype("float32"), IMAGES[::-1].astype("float32"))


def build(
    loss="arctanh_infonce", supervised=False, projector=True, seed=0, encoder=None, eager=True, **compile_options
):
    """Eager, which is faster for a few steps, where the compiled step is not what is tested."""
    return contrastive_model(
        encoder or image_encoder,
        projector=(8, 4) if projector else None,
        optimizer=keras.optimizers.Adam(0.01),
        loss=loss,
        compile_options={"run_eagerly": eager, **compile_options},
        seed=seed,
        augmenter=Noise(25.0),
        supervised=supervised,
    )


def fit(model, x=IMAGES, y=None, **options):
    return model.fit(x, y, **{"batch_size": 16, "verbose": 0, **options}).history


def test_learns_what_views_share():
    """Instances of two coordinates; a view adds noise of the same size in many others."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(256, 2)), np.zeros((256, 6))], axis=1).astype("float32")
    encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(3)])
    noise = tf.constant([0.0, 0.0] + [1.0] * 6)
    model = keras_tfcl.ContrastiveModel(encoder, augmenter=lambda x: x + noise * tf.random.normal(tf.shape(x)))
    model.compile(keras.optimizers.Adam(0.02), loss=keras_tfcl.InfoNCE(0.2), metrics=[keras_tfcl.ContrastiveAccuracy()])
    history = fit(model, x, batch_size=64, epochs=15)
    assert history["loss"][-1] < history["loss"][0] - 1
    assert history["contrastive_accuracy"][-1] > 3 * history["contrastive_accuracy"][0]


def test_loss_is_that_of_the_projections():
    """evaluate = the reference on what the model gives for two ready-made views."""
    model = build(keras_tfcl.InfoNCE(0.2))
    views = (IMAGES[:16].astype("float32"), IMAGES[16:32].astype("float32"))
    z = model(views)
    assert z.shape == (16, 2, 4)
    np.testing.assert_allclose(z[:, 1], model.projector(model.encoder(views[1])), rtol=1e-4, atol=1e-6)
    expected = reference.contrastive_loss(np.arange(16), z.numpy(), temperature=0.2).losses.mean()
    assert model.evaluate(views, batch_size=16, verbose=0) == pytest.approx(expected, rel=1e-5)
    model = build(keras_tfcl.InfoNCE(0.2), supervised=True)
    expected = reference.contrastive_loss(LABELS[:16], model(views).numpy(), temperature=0.2).losses.mean()
    assert model.evaluate(views, LABELS[:16], batch_size=16, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_predict_gives_normalised_features_of_the_encoder():
    model = build()
    features = model.encoder.predict(IMAGES, verbose=0)
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, rtol=1e-5)
    assert model.predict(tf.data.Dataset.from_tensor_slices(IMAGES).batch(20), verbose=0).shape == (48, 6)


@pytest.mark.parametrize(
    "loss",
    ["arctanh_infonce", *(pytest.param(n, marks=pytest.mark.slow) for n in ("infonce", "hard_negative_infonce"))],
)
def test_ways_to_run_give_one_result(loss):
    expected = fit(build(loss, eager=True), epochs=2)["loss"]
    for options in ({"jit_compile": False}, {"jit_compile": True}, {"jit_compile": False, "steps_per_execution": 3}):
        np.testing.assert_allclose(fit(build(loss, eager=False, **options), epochs=2)["loss"], expected, rtol=1e-4)


@pytest.mark.parametrize("platform", ["CPU", "GPU"])
def test_train_step_lowers_to_xla(platform):
    """Views to gradients, as a function of all variables; what remains of the step is Keras' optimizer.

    For GPU this needs TensorFlow's CUDA build, but no GPU.
    """
    if platform == "GPU" and not tf.test.is_built_with_cuda():
        pytest.skip("this TensorFlow is built without CUDA")
    model = build()
    trained, kept = model.trainable_variables, model.non_trainable_variables

    def step(first, second, *values):
        weights, others = values[: len(trained)], values[len(trained) :]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            z, others = model.stateless_call(weights, others, (first, second), training=True)
            loss = model.compute_loss(y_pred=z)
        return loss, tape.gradient(loss, weights), others

    images = [tf.cast(IMAGES[:16], "float32"), tf.cast(IMAGES[16:32], "float32")]
    arguments = [*images, *[tf.convert_to_tensor(v.value) for v in (*trained, *kept)]]
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arguments]
    compiled = tf.function(step, jit_compile=True)
    hlo = compiled.experimental_get_compiler_ir(*specs)(stage="hlo", platform_name=platform)
    assert "f64[32,32]" in hlo  # the similarity matrix of 32 views
    if platform == "CPU":
        expected = model.fit(tuple(images), batch_size=16, shuffle=False, verbose=0).history["loss"][0]
        assert float(compiled(*arguments)[0]) == pytest.approx(expected, rel=1e-5)


def test_validation():
    history = fit(build(), IMAGES[:16], validation_data=IMAGES[:20], epochs=2)
    assert len(history["val_loss"]) == 2
    # Without training steps in between the same views give the same loss.
    model = build()
    assert model.evaluate(IMAGES, batch_size=16, verbose=0) == model.evaluate(IMAGES, batch_size=16, verbose=0)
    for data in [
        ((IMAGES[:16], IMAGES[16:32]),),
        ((IMAGES[:16], IMAGES[16:32]), LABELS[:16]),
        (IMAGES[:20], LABELS[:20]),
        tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(16),
    ]:
        assert np.isfinite(fit(model, IMAGES[:16], validation_data=data)["val_loss"]).all()


def test_every_source_of_data():
    tensors = tf.data.Dataset.from_tensor_slices

    class Batches(keras.utils.PyDataset):
        num_batches = 3

        def __getitem__(self, index):
            return IMAGES[16 * index : 16 * index + 16], LABELS[16 * index : 16 * index + 16]

    model = build()
    for x, options in [
        (IMAGES, {}),
        ((IMAGES, IMAGES[::-1]), {}),
        (tensors(IMAGES).batch(16), {}),
        (tensors(((IMAGES, IMAGES[::-1]),)).batch(16), {}),
        (tensors(((IMAGES, IMAGES[::-1]), LABELS)).batch(16), {}),
        (Batches(), {}),
        ((IMAGES[16 * i : 16 * i + 16] for i in range(3)), {"steps_per_epoch": 3}),
    ]:
        arrays = isinstance(x, (np.ndarray, tuple))
        history = model.fit(x, batch_size=16 if arrays else None, verbose=0, **options).history
        assert np.isfinite(history["loss"]).all()
    batches_of_any_size = tensors(((IMAGES, IMAGES[::-1]), LABELS)).batch(20)
    assert np.isfinite(build(eager=False).fit(batches_of_any_size, verbose=0).history["loss"]).all()


def test_metrics_of_positives_get_rows_and_others_labels():
    metrics = [
        keras_tfcl.ContrastiveAccuracy(),
        keras_tfcl.Alignment(),
        keras_tfcl.Tolerance(),
        keras_tfcl.Uniformity(),
    ]
    model = build(metrics=metrics)
    views = (IMAGES[:16].astype("float32"), IMAGES[16:32].astype("float32"))
    result = model.evaluate(views, LABELS[:16], batch_size=16, verbose=0, return_dict=True)
    z = model(views).numpy().astype("float64")
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    assert result["alignment"] == pytest.approx((np.linalg.norm(z[:, 0] - z[:, 1], axis=1) ** 2).mean(), rel=1e-4)
    same = [
        z[i, v] @ z[j, w]
        for i in range(16) for j in range(i) for v in range(2) for w in range(2) if LABELS[i] == LABELS[j]
    ]  # fmt: skip
    assert result["tolerance"] == pytest.approx(np.mean(same), rel=1e-4)
    assert set(result) == {"loss", "contrastive_accuracy", "alignment", "tolerance", "uniformity"}


def test_weights_reach_weighted_metrics_alone():
    """As in Keras, with Keras' names: for metrics of the loss's positives, and for metrics of the labels y."""
    metrics = [keras_tfcl.Alignment(), keras_tfcl.Tolerance()]
    weighted = [keras_tfcl.Alignment(), keras_tfcl.Tolerance()]
    model = build(metrics=metrics, weighted_metrics=weighted)
    views, weight = (IMAGES[:16].astype("float32"), IMAGES[16:32].astype("float32")), np.arange(16.0)
    result = model.evaluate(views, LABELS[:16], sample_weight=weight, batch_size=16, verbose=0, return_dict=True)
    z = model(views)
    for one, other, sample_weight in (
        ("alignment", "tolerance", None),
        ("weighted_alignment", "weighted_tolerance", weight),
    ):
        for name, metric, labels in (
            (one, keras_tfcl.Alignment(), np.arange(16)),
            (other, keras_tfcl.Tolerance(), LABELS),
        ):
            metric.update_state(labels[:16], z, sample_weight)
            assert result[name] == pytest.approx(float(metric.result()), rel=1e-4)
    config = keras.saving.deserialize_keras_object(model.get_compile_config())
    for key, expected in (("metrics", metrics), ("weighted_metrics", weighted)):
        assert [type(metric) for metric in config[key]] == [type(metric) for metric in expected]


def test_compile_again(tmp_path):
    """Nothing is left of an earlier loss and earlier metrics: not in the logs, nor in what is trained and saved."""
    loss = keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.5))
    model = build(loss, metrics=[keras_tfcl.ContrastiveAccuracy()])
    fit(model, VIEWS)
    model.compile("adam", loss=keras_tfcl.InfoNCE(0.1), metrics=[keras_tfcl.Uniformity()], run_eagerly=True)
    assert set(fit(model, VIEWS)) == {"loss", "uniformity"}
    assert not any(v is loss.scaling.log_scale for v in model.variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 3
    model.compile("adam", loss=loss, metrics=[keras_tfcl.Alignment()], run_eagerly=True)
    assert any(v is loss.scaling.log_scale for v in model.trainable_variables)
    assert set(fit(model, VIEWS)) == {"loss", "alignment"}


@pytest.mark.filterwarnings("ignore:.*unbuilt state")
def test_compile_after_predict():
    """The encoder is built by then and locked, the projector is not."""
    encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(6)])
    model = keras_tfcl.ContrastiveModel(encoder, projector=keras_tfcl.ProjectionHead((8, 4)))
    model.predict(VIEWS[0], verbose=0)
    loss = keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.5))
    model.compile("adam", loss=loss, metrics=[keras_tfcl.ContrastiveAccuracy()], run_eagerly=True)
    assert np.isfinite(fit(model, VIEWS)["loss"]).all()


def test_save_load_and_resume(tmp_path):
    """A run that is saved and loaded continues with the losses of a run that never stopped."""
    metrics = [keras_tfcl.ContrastiveAccuracy(), keras_tfcl.Uniformity()]
    expected = fit(build(metrics=metrics), epochs=2)
    model = build(metrics=[keras_tfcl.ContrastiveAccuracy(), keras_tfcl.Uniformity()])
    fit(model)
    model.save(tmp_path / "run.keras")
    loaded = keras.models.load_model(tmp_path / "run.keras")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0), atol=1e-6)
    history = fit(loaded)
    assert set(history) == {"loss", "contrastive_accuracy", "uniformity"}
    for name in history:
        np.testing.assert_allclose(history[name], expected[name][1:], rtol=1e-4)
    assert loaded.loss.get_config() == model.loss.get_config()
    assert json.dumps(loaded.augmenter.get_config()) == json.dumps(model.augmenter.get_config())


def test_save_before_training(tmp_path):
    model = build()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0), atol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class SubclassedEncoder(keras.Model):
    def __init__(self, units=5, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.flatten = keras.layers.Flatten()
        self.dense = keras.layers.Dense(units)

    def call(self, x):
        return self.dense(self.flatten(keras.ops.cast(x, "float32")))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_subclassed_encoder(tmp_path):
    model = build(encoder=SubclassedEncoder())
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0), atol=1e-6)
    assert np.isfinite(fit(loaded)["loss"]).all()


def test_learnable_temperature_is_trained_and_saved(tmp_path):
    loss = keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.5))
    model = build(loss)
    assert any(v is loss.scaling.log_scale for v in model.trainable_variables)
    fit(model)
    assert float(loss.scaling.temperature) != pytest.approx(0.5, abs=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(loaded.loss.scaling.temperature) == pytest.approx(float(loss.scaling.temperature))
    before = float(loaded.loss.scaling.temperature)
    fit(loaded)
    assert float(loaded.loss.scaling.temperature) != before


def test_seed_reproduces():
    first, again, other = (fit(build(seed=seed))["loss"] for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_accumulated_gradients_do_not_repeat_an_epoch():
    """At learning rate 0 losses differ by the order alone."""
    model = build()
    model.compile(keras.optimizers.SGD(0.0, gradient_accumulation_steps=6), loss="infonce", run_eagerly=True)
    first, second = fit(model, VIEWS, epochs=2)["loss"]
    assert first != second


@pytest.mark.filterwarnings("ignore:.*unbuilt state")
@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 3)]),
            r"encoder must return one vector.*\(None, 6, 6, 3\)",
        ),
        (SubclassedEncoder, r"encoder must return one vector.*list"),
    ],
)
def test_encoder_output(encoder, message):
    if isinstance(encoder, type):

        class TwoOutputs(encoder):
            def call(self, x):
                return [super().call(x)] * 2

        encoder = TwoOutputs()
    with pytest.raises(ValueError, match=message):
        fit(build(encoder=encoder))


def test_bad_arguments():
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"`views` must be an integer of at least 1\. Received: views=0"):
        keras_tfcl.ContrastiveModel(encoder, views=0)
    with pytest.raises(ValueError, match=r"no sample has a positive\. Received: views=1, supervised=False"):
        keras_tfcl.ContrastiveModel(encoder, views=1)
    model = keras_tfcl.ContrastiveModel(encoder)
    with pytest.raises(ValueError, match=r"`loss` must be one of"):
        model.compile("adam")
    model.compile("adam", loss="infonce")
    with pytest.raises(ValueError, match=r"needs 2 different views.*Pass `augmenter=`"):
        model.fit(np.zeros((8, 4)))
    supervised = keras_tfcl.ContrastiveModel(encoder, supervised=True)
    supervised.compile("adam", loss="infonce")
    with pytest.raises(ValueError, match=r"supervised=True takes positives from the labels\. Received: data without y"):
        supervised.fit((np.ones((8, 4)), np.ones((8, 4))), verbose=0)


def test_supervised_with_one_view():
    """SupCon without augmentation."""
    rng = np.random.default_rng(0)
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = keras_tfcl.ContrastiveModel(encoder, views=1, supervised=True)
    model.compile("adam", loss="infonce")
    assert np.isfinite(model.fit(rng.normal(size=(32, 4)), LABELS[:32], verbose=0).history["loss"]).all()
