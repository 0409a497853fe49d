"""What an export says about itself: report, metadata, weights hash, verify_onnx."""

import hashlib
import json
from importlib import metadata

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from keras_tfcl.export import ModelFileError, OnnxEncoder, ParityError, export_onnx, verify_onnx
from keras_tfcl.export import export as exporter
from keras_tfcl.export.runtime.parity import Parity, compare

layers = keras.layers
saves_weights = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # keras 3.15, numpy 2.4


def encoder():
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(5)])


@pytest.fixture
def exported(tmp_path):
    model = encoder()
    return model, export_onnx(model, tmp_path / "encoder.onnx")


def test_report(exported):
    _, report = exported
    assert report.bytes == report.path.stat().st_size
    assert (report.opset, report.dimension, report.normalized, report.matches) == (17, 5, True, True)
    assert report.rows > 8  # random inputs at batch 1 and 7, and edge inputs
    assert 0 <= report.max_abs_diff < 1e-5
    assert 0.99999 < report.min_cosine <= 1 + 1e-9
    assert report.seconds > 0
    for text in ("encoder.onnx", "image: float32 (batch, 8, 8, 3)", "(batch, 5)", "matches", "tf2onnx"):
        assert text in str(report)
    restored = json.loads(report.to_json())
    assert restored == json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert restored["inputs"] == [{"name": "image", "dtype": "float32", "shape": [None, 8, 8, 3]}]
    assert restored["path"] == str(report.path)
    with pytest.raises(AttributeError):
        report.bytes = 0


def test_file_has_named_dimensions_and_one_metadata_value(exported):
    _, report = exported
    session = onnxruntime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 8, 8, 3]
    assert session.get_outputs()[0].shape == ["batch", 5]
    stored = session.get_modelmeta().custom_metadata_map
    assert set(stored) == {"keras_tfcl"}
    content = json.loads(stored["keras_tfcl"])
    assert content["schema"] == 1
    assert content["inputs"] == [{"name": "image", "dtype": "float32", "shape": [None, 8, 8, 3]}]
    assert (content["dimension"], content["normalized"], content["projector"]) == (5, True, "none")
    assert content["parity"]["passed"] is True
    assert content["parity"]["max_abs_diff"] == report.max_abs_diff
    assert content["versions"]["tf2onnx"] == metadata.version("tf2onnx")
    assert content == OnnxEncoder(report.path).metadata


def test_the_bytes_that_were_checked_are_published_with_the_metadata_behind(monkeypatch, tmp_path):
    checked = []
    original = exporter.check_file

    def check_file(path, *arguments):
        checked.append(path.read_bytes())
        return original(path, *arguments)

    monkeypatch.setattr(exporter, "check_file", check_file)
    report = export_onnx(encoder(), tmp_path / "encoder.onnx")
    content = report.path.read_bytes()
    assert content.startswith(checked[0])
    behind = onnx.ModelProto.FromString(content[len(checked[0]) :])
    assert [entry.key for entry in behind.metadata_props] == ["keras_tfcl"]
    behind.ClearField("metadata_props")
    assert behind.ByteSize() == 0
    recorded = OnnxEncoder(report.path).metadata["content_hash"]
    assert recorded == "sha256:" + hashlib.sha256(checked[0]).hexdigest()


def test_metadata_of_an_encoder_is_a_copy(exported):
    _, report = exported
    served = OnnxEncoder(report.path)
    served.metadata["parity"]["passed"] = False
    assert served.metadata["parity"]["passed"] is True


@saves_weights
def test_weights_hash_follows_weights_not_files(exported, tmp_path):
    model, report = exported
    model.save(tmp_path / "model.keras")
    again = export_onnx(keras.models.load_model(tmp_path / "model.keras"), tmp_path / "again.onnx", normalize=False)
    assert again.weights_sha256 == report.weights_sha256
    model.layers[0].bias.assign(np.full(4, 1e-7))
    assert export_onnx(model, tmp_path / "changed.onnx").weights_sha256 != report.weights_sha256


def test_export_replaces_an_older_file(exported):
    _, report = exported
    newer = encoder()
    export_onnx(newer, report.path)
    assert verify_onnx(report.path, newer).passed
    assert [path.name for path in report.path.parent.iterdir()] == ["encoder.onnx"]


def test_verify_accepts_the_model_and_samples(exported):
    model, report = exported
    samples = np.random.default_rng(0).normal(size=(3, 8, 8, 3))
    parity = verify_onnx(report.path, model, samples)
    assert parity.passed
    assert parity.rows == verify_onnx(report.path, model).rows + 3


def test_verify_finds_other_weights(exported):
    model, report = exported
    model.layers[-1].kernel.assign(model.layers[-1].kernel + 0.1)
    with pytest.raises(ParityError, match="weights of the model are not those in the file"):
        verify_onnx(report.path, model)


def test_verify_refuses_a_file_from_elsewhere(exported, tmp_path):
    model, report = exported
    foreign = onnx.load(report.path)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ModelFileError, match="metadata"):
        verify_onnx(tmp_path / "foreign.onnx", model)


BASE = np.array([[1.0, 2.0, 2.0], [100.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (np.zeros((3, 3)), True),
        ([[0, 0, 0], [0.9e-2, 0, 0], [0, 0, 0]], True),  # 0.9e-4 of the scale 100
        ([[0, 0, 0], [1.1e-2, 0, 0], [0, 0, 0]], False),
        ([[0, 0.9e-2, 0], [0, 0, 0], [0, 0, 0]], True),
        ([[0, 0, 0], [0, 0, 0], [1e-3, 0, 0]], False),  # a row of zeros got a direction
    ],
)
def test_tolerance_follows_the_scale(scale, change, passes):
    parity = compare(BASE * scale, (BASE + np.array(change)) * scale)
    assert parity.passed is passes
    assert parity.scale == pytest.approx(100 * scale)


def test_cosine_finds_a_small_row_that_turned():
    reference = np.array([[1e-3, 0.0], [100.0, 0.0]])
    turned = np.array([[0.0, 1e-3], [100.0, 0.0]])
    parity = compare(reference, turned)
    assert parity.max_abs_diff < 1e-4 * parity.scale
    assert parity.min_cosine == pytest.approx(0)
    assert not parity.passed


def test_the_worst_of_several_comparisons():
    """A large scale in one batch does not hide a small difference in another."""
    large = compare(np.full((2, 3), 1e6), np.full((2, 3), 1e6 + 1))
    small = compare(np.full((4, 3), 1.0), np.full((4, 3), 1.01))
    equal = compare(np.zeros((1, 3)), np.zeros((1, 3)))
    worst = Parity.worst([large, small, equal])
    assert large.passed
    assert not worst.passed
    assert (worst.max_abs_diff, worst.scale, worst.rows) == (small.max_abs_diff, 1.0, 7)
