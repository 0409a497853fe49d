"""What can be put into the file besides the encoder: pixels as input, preprocessing, notes; and progress."""

import keras
import numpy as np
import onnxruntime
import pytest

import keras_tfcl
from helpers.onnx_files import run
from keras_tfcl.export import InputError, OnnxEncoder, ParityError, VerificationError, export_onnx, verify_onnx

layers = keras.layers


@pytest.fixture(scope="module")
def encoder():
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(5)])


def pixels(rows, size=8):
    return np.random.default_rng(rows).integers(0, 256, (rows, size, size, 3)).astype("uint8")


def test_pixels_as_input_and_rescaling_inside(encoder, tmp_path):
    report = export_onnx(
        encoder,
        tmp_path / "encoder.onnx",
        normalize=False,
        input_dtype="uint8",
        preprocessing=layers.Rescaling(1 / 255),
    )
    x = pixels(4)
    expected = encoder.predict(x / np.float32(255), verbose=0)
    np.testing.assert_allclose(run(report.path, x), expected, atol=1e-5)
    assert str(report.inputs[0]) == "image: uint8 (batch, 8, 8, 3)"
    facts = OnnxEncoder(report.path).metadata["preprocessing"]
    inside = [{"layer": "Rescaling", "scale": pytest.approx(1 / 255), "offset": 0.0}]
    assert facts == {"layout": "NHWC", "size": [8, 8], "range": [0, 255], "inside": inside}
    assert verify_onnx(report.path, encoder, preprocessing=layers.Rescaling(1 / 255)).passed


def test_input_dtype_alone_changes_no_value(encoder, tmp_path):
    report = export_onnx(encoder, tmp_path / "encoder.onnx", normalize=False, input_dtype="uint8")
    x = pixels(3)
    expected = encoder.predict(x.astype("float32"), verbose=0)
    np.testing.assert_allclose(run(report.path, x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_preprocessing_model_declares_the_inputs(encoder, tmp_path):
    front = keras.Sequential(
        [keras.Input((None, None, 3), dtype="uint8"), layers.Rescaling(1 / 127.5, offset=-1), layers.Resizing(8, 8)]
    )
    report = export_onnx(encoder, tmp_path / "encoder.onnx", normalize=False, preprocessing=front)
    x = pixels(2, size=21)
    expected = encoder.predict(front.predict(x, verbose=0), verbose=0)
    np.testing.assert_allclose(run(report.path, x), expected, atol=1e-4)
    assert str(report.inputs[0]) == "image: uint8 (batch, any, any, 3)"
    steps = OnnxEncoder(report.path).metadata["preprocessing"]["inside"]
    assert [step["layer"] for step in steps] == ["Rescaling", "Resizing"]


def test_integer_pixels_into_resizing_are_named(encoder, tmp_path):
    """Keras rounds the resized uint8 image when it runs eagerly, and not in `predict`."""
    x = keras.Input((23, 19, 3), dtype="uint8")
    model = keras.Sequential([x, layers.Resizing(8, 8, name="culprit"), layers.Rescaling(1 / 127.5), encoder])
    with pytest.raises(ParityError, match=r"layer `culprit` \(Resizing\).*put Rescaling before it"):
        export_onnx(model, tmp_path / "encoder.onnx")


def test_wrong_options_are_named(encoder, tmp_path):
    path = tmp_path / "encoder.onnx"
    ids = keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(4, 2), layers.Flatten()])
    with pytest.raises(ValueError, match=r'`input_dtype`.*input_dtype="uint8"|`input_dtype`.*uint8'):
        export_onnx(ids, path, input_dtype="uint8")
    with pytest.raises(ValueError, match=r"`input_dtype`.*complex64"):
        export_onnx(encoder, path, input_dtype="complex64")
    with pytest.raises(TypeError, match=r"`preprocessing`.*function"):
        export_onnx(encoder, path, preprocessing=lambda x: x / 255)
    with pytest.raises(TypeError, match="`notes`"):
        export_onnx(encoder, path, notes=["RGB"])
    for value, error in (({1}, TypeError), (np.int64(3), TypeError), (float("nan"), ValueError)):
        with pytest.raises(error, match=r"`notes` must be what JSON can hold\. Received: .* Convert with int\(\)"):
            export_onnx(encoder, path, notes={"value": value})
    with pytest.raises(ValueError, match="`notes`"):
        export_onnx(encoder, path, notes={"text": "x" * 40_000})
    for note in ("RGB", {"range": [0, 1], "size": 8}, {"range": [1, 0]}, {"resize": "stretch"}):
        with pytest.raises(InputError, match=r"Received: .*encoder\.onnx"):
            export_onnx(encoder, path, notes={"image": note})
    with pytest.raises(InputError, match="that uint8 holds"):
        export_onnx(encoder, path, input_dtype="uint8", notes={"image": {"range": [0, 1]}})
    assert list(tmp_path.iterdir()) == []


NESTED = {
    "back to pixels, then again to 1": ([255.0, 1 / 255], None),
    "as EfficientNet": ([1 / 255, [2.0, 3.0, 4.0]], [0, 255]),
}


@pytest.mark.parametrize(("scales", "span"), NESTED.values(), ids=NESTED)
def test_layers_of_nested_models_are_recorded_in_their_order(scales, span, tmp_path):
    inner = keras.Sequential([*map(layers.Rescaling, scales), layers.GlobalAveragePooling2D()])
    export_onnx(keras.Sequential([keras.Input((8, 8, 3)), inner, layers.Dense(4)]), tmp_path / "encoder.onnx")
    facts = OnnxEncoder(tmp_path / "encoder.onnx").metadata["preprocessing"]
    assert facts["range"] == span
    assert [step["scale"] for step in facts["inside"]] == scales


FRONTS = {
    "one that is recorded": (lambda: layers.Rescaling(1 / 255), ParityError, "The export had `preprocessing`"),
    "one that is not": (lambda: layers.Lambda(lambda x: x / 9), ParityError, "again. If the export had `prep"),
    "one with weights": (
        lambda: layers.BatchNormalization(gamma_initializer="zeros"),
        ParityError,
        "in the file: export again. If the export had",
    ),
    "one with other inputs": (
        lambda: keras.Sequential([keras.Input((None, None, 3)), layers.Resizing(8, 8)]),
        VerificationError,
        r"Received: .*any, any.*The export had `preprocessing`",
    ),
}


@pytest.mark.parametrize(("front", "error", "text"), FRONTS.values(), ids=FRONTS)
def test_verify_asks_for_the_preprocessing_of_the_export(encoder, tmp_path, front, error, text):
    front = front()
    path = export_onnx(encoder, tmp_path / "encoder.onnx", normalize=False, preprocessing=front).path
    with pytest.raises(error, match=text):
        verify_onnx(path, encoder)
    assert verify_onnx(path, encoder, preprocessing=front).passed


def test_notes_objective_and_size_of_the_metadata(tmp_path):
    encoder = keras.Sequential([keras.Input((6,)), layers.Dense(4096)])
    model = keras_tfcl.ContrastiveModel(encoder, supervised=True)
    model.compile("adam", loss=keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.2)))
    report = export_onnx(model, tmp_path / "encoder.onnx", notes={"channels": "RGB", "run": 7})
    content = OnnxEncoder(report.path).metadata
    assert content["notes"] == {"channels": "RGB", "run": 7}
    assert content["objective"]["loss"] == "ContrastiveLoss"
    assert "LearnableTemperature" in str(content["objective"]["config"])
    assert len(content["objective"]["learned"]) == 1
    assert content["metric"] == "cosine"
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    assert len(session.get_modelmeta().custom_metadata_map["keras_tfcl"]) < 256 * 1024


def test_hints_and_progress(tmp_path):
    model = keras.Sequential(
        [keras.Input((12, 12, 3)), layers.RandomFlip(name="flip"), layers.RandomCrop(8, 8, name="crop"),
         layers.GlobalAveragePooling2D()]
    )  # fmt: skip
    stages = []
    report = export_onnx(model, tmp_path / "encoder.onnx", progress=stages.append)
    assert len(report.hints) == 2
    assert "`flip`" in report.hints[0]
    assert "`crop` (RandomCrop) crops in training only" in str(report)
    words = " | ".join(stages)
    positions = [
        words.index(word) for word in ("check the layers", "embed", "trace", "convert", "check the file", "rename")
    ]
    assert positions == sorted(positions)
