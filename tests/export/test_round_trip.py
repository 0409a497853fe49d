"""A written file gives the embeddings of `model.predict`, computed here by bare onnxruntime."""

import keras
import numpy as np
import onnxruntime
import pytest

import keras_tfcl
from keras_tfcl.export import export_onnx, verify_onnx

layers = keras.layers


def unit(rows):
    """Rows divided by their length, in float64."""
    rows = rows.astype(np.float64)
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


def run(path, **inputs):
    """Embeddings of `inputs` by onnxruntime without any of our code."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [tensor.name for tensor in session.get_inputs()] == list(inputs)
    assert [tensor.name for tensor in session.get_outputs()] == ["embedding"]
    (embeddings,) = session.run(["embedding"], inputs)
    assert embeddings.dtype == np.float32
    return embeddings


def image_encoder(*front, dtype="float32"):
    return keras.Sequential(
        [keras.Input((16, 16, 3), dtype=dtype), *front, layers.GlobalAveragePooling2D(), layers.Dense(6)]
    )


def adapted_normalization():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(1).normal(100, 40, (64, 16, 16, 3)))
    return layer


@keras.saving.register_keras_serializable("test_export_round_trip")
class TrainsByDefault(keras.Model):
    """Multiplies by 7 unless told that this is inference, and holds a constant that is no weight."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(8, activation="relu")
        self.out = layers.Dense(5)
        self.shift = keras.ops.convert_to_tensor(np.arange(5, dtype="float32"))

    def call(self, x, training=True):
        return self.out(self.hidden(x)) * (7.0 if training else 1.0) + self.shift


IMAGE_ENCODERS = {
    "convolution": lambda: image_encoder(layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization()),
    "grouped convolution": lambda: image_encoder(layers.Conv2D(8, 3), layers.Conv2D(8, 3, groups=4)),
    "exact gelu": lambda: image_encoder(layers.Conv2D(8, 3, activation="gelu")),
    "zeros around negative numbers, and their maximum": lambda: image_encoder(
        layers.Rescaling(-1), layers.ZeroPadding2D(1), layers.MaxPooling2D(3)
    ),
    "adapted normalization": lambda: image_encoder(adapted_normalization(), layers.Conv2D(4, 3)),
    "layer normalization": lambda: image_encoder(layers.Conv2D(8, 3), layers.LayerNormalization()),
    "bilinear resize": lambda: image_encoder(layers.Resizing(9, 11), layers.Conv2D(4, 3)),
    "augmentation": lambda: image_encoder(
        layers.RandomFlip(), layers.RandomRotation(0.2), layers.RandomContrast(0.5), layers.RandomGrayscale(),
        layers.GaussianNoise(0.5), layers.Conv2D(4, 3), layers.Dropout(0.5),
    ),
    "random crop": lambda: image_encoder(layers.RandomCrop(12, 12), layers.Conv2D(4, 3)),
    "ends in UnitNormalization": lambda: keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.UnitNormalization()]
    ),
}  # fmt: skip


@pytest.mark.parametrize("build", IMAGE_ENCODERS.values(), ids=IMAGE_ENCODERS)
def test_image_encoder_equals_predict(build, tmp_path):
    model = build()
    export_onnx(model, tmp_path / "encoder.onnx")
    for rows in (1, 7):
        x = np.random.default_rng(2).uniform(0, 255, (rows, 16, 16, 3)).astype("float32")
        found = run(tmp_path / "encoder.onnx", image=x)
        np.testing.assert_allclose(found, unit(model.predict(x, verbose=0)), atol=1e-5)


@pytest.mark.parametrize("opset", [13, 18])
def test_opset_is_the_one_asked_for_and_all_of_them_match(opset, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = image_encoder(layers.Rescaling(1 / 255), layers.Conv2D(6, 3, groups=3, activation="gelu"), dtype="uint8")
    report = export_onnx(model, tmp_path / "encoder.onnx", opset=opset)
    x = np.random.default_rng(3).integers(0, 256, (3, 16, 16, 3)).astype("uint8")
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", image=x), unit(model.predict(x, verbose=0)), atol=1e-5)
    assert report.opset == {entry.domain: entry.version for entry in onnx.load(report.path).opset_import}[""] == opset


def test_normalize_false_keeps_the_length(tmp_path):
    model = image_encoder(layers.Conv2D(4, 3))
    x = np.random.default_rng(4).normal(size=(5, 16, 16, 3)).astype("float32")
    export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", image=x), model.predict(x, verbose=0), atol=1e-5)


def test_normalisation_of_zero_tiny_and_huge_rows(tmp_path):
    identity = keras.Sequential([keras.Input((3,)), layers.Dense(3, use_bias=False, kernel_initializer="identity")])
    export_onnx(identity, tmp_path / "encoder.onnx")
    x = np.array([[0, 0, 0], [3e-30, 4e-30, 0], [0, 3e30, -4e30], [0.6, 0, 0.8]], "float32")
    expected = [[0, 0, 0], [0.6, 0.8, 0], [0, 0.6, -0.8], [0.6, 0, 0.8]]
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", features=x), expected, atol=1e-6)


def test_tokens_of_any_length(tmp_path):
    tokens = keras.Input((None,), dtype="int32")
    hidden = layers.Embedding(40, 8, mask_zero=True)(tokens)
    hidden = layers.LSTM(8)(hidden)
    model = keras.Model(tokens, layers.Dense(4)(hidden))
    report = export_onnx(model, tmp_path / "encoder.onnx")
    assert str(report.inputs[0]) == "tokens: int32 (batch, any)"
    for rows, length in ((1, 3), (4, 31)):
        x = np.random.default_rng(5).integers(1, 40, (rows, length)).astype("int32")
        x[:, length // 2 :] = 0
        np.testing.assert_allclose(
            run(tmp_path / "encoder.onnx", tokens=x), unit(model.predict(x, verbose=0)), atol=1e-5
        )


def two_input_parts():
    tokens = keras.Input((None,), dtype="int32", name="token ids")
    mask = keras.Input((None,), dtype="bool", name="mask")
    hidden = layers.Embedding(40, 8)(tokens) * keras.ops.cast(keras.ops.expand_dims(mask, 2), "float32")
    return tokens, mask, layers.Dense(4)(layers.GlobalAveragePooling1D()(hidden))


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_keep_their_names_made_safe(as_dict, tmp_path):
    tokens, mask, embedding = two_input_parts()
    model = keras.Model({"token ids": tokens, "mask": mask} if as_dict else [tokens, mask], embedding)
    export_onnx(model, tmp_path / "encoder.onnx")
    ids = np.random.default_rng(6).integers(0, 40, (3, 9)).astype("int32")
    keep = np.arange(9) < np.array([[4], [9], [1]])
    arrays = {"token ids": ids, "mask": keep}
    expected = unit(model.predict(arrays if as_dict else [ids, keep], verbose=0))
    named = {"mask": keep, "token_ids": ids} if as_dict else {"token_ids": ids, "mask": keep}
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", **named), expected, atol=1e-5)


def test_automatic_names_of_several_inputs_do_not_depend_on_the_process(tmp_path):
    a, b = keras.Input((3,)), keras.Input((4,))
    model = keras.Model([a, b], layers.Dense(2)(layers.concatenate([a, b])))
    report = export_onnx(model, tmp_path / "encoder.onnx")
    assert [spec.name for spec in report.inputs] == ["input_0", "input_1"]


def test_one_id_a_row(tmp_path):
    model = keras.Sequential([keras.Input((), dtype="int32"), layers.Embedding(40, 4)])
    export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    x = np.array([3, 0, 39], "int32")
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", features=x), expected, atol=1e-5)


class TakesDict(keras.Model):
    """Sums what the keys in its hands hold."""

    def call(self, inputs):
        return sum(
            keras.ops.mean(values, axis=(1, 2)) * (i + 1) for i, (_, values) in enumerate(sorted(inputs.items()))
        )


@pytest.mark.parametrize("names", [{"pixels": "image"}, {"right eye": "right_eye", "left eye": "left_eye"}])
def test_samples_by_the_keys_that_the_model_takes(names, tmp_path):
    samples = {key: np.full((2, 4, 4, 3), i + 1, "float32") for i, key in enumerate(names)}
    export_onnx(TakesDict(), tmp_path / "encoder.onnx", normalize=False, samples=samples)
    expected = sum((i + 1) * samples[key][:, 0, 0] for i, key in enumerate(sorted(samples)))
    given = {names[key]: samples[key] for key in sorted(names)}
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", **given), expected, atol=1e-5)


@pytest.mark.parametrize("called", [True, False])
def test_subclassed_model_in_inference_mode(called, tmp_path):
    model = TrainsByDefault()
    x = np.random.default_rng(7).normal(size=(5, 6)).astype("float32")
    if called:
        model(x)
    export_onnx(model, tmp_path / "encoder.onnx", normalize=False, samples=None if called else x.astype("float64"))
    expected = np.maximum(x @ model.hidden.get_weights()[0], 0) @ model.out.get_weights()[0] + np.arange(5)
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", features=x), expected, atol=1e-5)


# keras 3.15 with numpy 2.4
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_model_loaded_from_disk_and_never_called(tmp_path):
    model = image_encoder(layers.Conv2D(4, 3, activation="gelu"))
    model.save(tmp_path / "model.keras")
    export_onnx(keras.models.load_model(tmp_path / "model.keras"), tmp_path / "encoder.onnx")
    x = np.random.default_rng(8).normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", image=x), unit(model.predict(x, verbose=0)), atol=1e-5)


def test_projector_is_dropped_or_kept(tmp_path):
    encoder = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="tanh")])
    projector = keras.Sequential([layers.Dense(7, activation="relu"), layers.Dense(3)])
    model = keras_tfcl.ContrastiveModel(encoder, projector)
    x = np.random.default_rng(9).normal(size=(4, 6)).astype("float32")
    dropped = export_onnx(model, tmp_path / "encoder.onnx")
    kept = export_onnx(model, tmp_path / "projected.onnx", projector=True)
    alone = export_onnx(encoder, tmp_path / "alone.onnx")
    assert [report.projector for report in (dropped, kept, alone)] == ["dropped", "kept", "none"]
    features = encoder.predict(x, verbose=0)
    np.testing.assert_allclose(run(tmp_path / "encoder.onnx", features=x), unit(features), atol=1e-5)
    projected = unit(projector.predict(features, verbose=0))
    np.testing.assert_allclose(run(tmp_path / "projected.onnx", features=x), projected, atol=1e-5)
    assert verify_onnx(kept.path, model).passed
    assert verify_onnx(dropped.path, model).passed
