"""Weights beyond what one file can hold: a second file, which nothing but the recorded one can replace.

The limit is lowered; one slow test passes the true one.
"""

import json
import os
import shutil
from dataclasses import replace

import keras
import numpy as np
import onnx
import pytest

from keras_tfcl.export import ModelFileError, OnnxEncoder, check_probes, export_onnx, verify_onnx
from keras_tfcl.export import export as exporter
from keras_tfcl.export.runtime import encoder as encoder_module
from keras_tfcl.export.runtime import model_file
from keras_tfcl.export.runtime.model_file import content_hash

layers = keras.layers
LIMIT = 4000  # Embedding: 19 kB, Dense: 4 kB and 1 kB


def encoder(pooling):
    return keras.Sequential(
        [keras.Input((None,), dtype="int32"), layers.Embedding(300, 16), pooling, layers.Dense(64), layers.Dense(5)]
    )


def ids():
    return np.random.default_rng(0).integers(0, 300, (6, 9)).astype("int32")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    model = encoder(layers.GlobalAveragePooling1D())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "_MAX_BYTES", LIMIT)
        return model, export_onnx(model, tmp_path_factory.mktemp("large") / "encoder.onnx", normalize=False)


@pytest.fixture
def exported(original, monkeypatch, tmp_path):
    model, report = original
    monkeypatch.setattr(exporter, "_MAX_BYTES", LIMIT)
    place = tmp_path / "place"
    shutil.copytree(report.path.parent, place)
    return model, replace(report, path=place / report.path.name, data_path=place / report.data_path.name)


def test_two_files_that_match(exported):
    model, report = exported
    folder = report.path.parent
    assert sorted(os.listdir(folder)) == [report.path.name, report.data_path.name]
    assert report.data_path.name.startswith("encoder.onnx.")
    table = model.layers[0].embeddings.numpy().tobytes()
    assert table in report.data_path.read_bytes()
    assert table not in report.path.read_bytes()
    served = OnnxEncoder(report.path)
    np.testing.assert_allclose(served.encode(ids()), model.predict(ids(), verbose=0), atol=1e-5)
    assert served.metadata["data_file"]["name"] == report.data_path.name
    assert verify_onnx(report.path, model).passed
    assert check_probes(report.path, "cpu").passed
    assert str(report.data_path) in str(report)


def test_all_weights_outside(monkeypatch, tmp_path):
    monkeypatch.setattr(exporter, "_MAX_BYTES", 0)
    model = encoder(layers.LSTM(8))
    report = export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    np.testing.assert_allclose(OnnxEncoder(report.path).encode(ids()), model.predict(ids(), verbose=0), atol=1e-5)


def test_a_later_export_leaves_no_old_data(exported, monkeypatch):
    model, report = exported
    model.layers[0].embeddings.assign(model.layers[0].embeddings * 2)
    again = export_onnx(model, report.path, normalize=False)
    assert again.data_path != report.data_path
    assert sorted(os.listdir(report.path.parent)) == [again.path.name, again.data_path.name]
    monkeypatch.undo()
    assert export_onnx(model, report.path).data_path is None
    assert os.listdir(report.path.parent) == ["encoder.onnx"]


@pytest.mark.parametrize(("module", "step"), [(model_file, "_check_external_data"), (encoder_module, "open_session")])
def test_an_export_while_the_older_one_is_opened(exported, monkeypatch, module, step):
    model, report = exported
    run = getattr(module, step)

    def replace_then_run(*arguments):
        monkeypatch.setattr(module, step, run)
        model.layers[0].embeddings.assign(model.layers[0].embeddings * 2)
        export_onnx(model, report.path, normalize=False)
        return run(*arguments)

    monkeypatch.setattr(module, step, replace_then_run)
    served = OnnxEncoder(report.path)
    np.testing.assert_allclose(served.encode(ids()), model.predict(ids(), verbose=0), atol=1e-5)
    assert sorted(os.listdir(report.path.parent)) == [report.path.name, served.metadata["data_file"]["name"]]


def test_a_failed_export_keeps_both_old_files(exported, monkeypatch):
    model, report = exported
    model.layers[0].embeddings.assign(model.layers[0].embeddings * 2)

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(exporter, "check_file", fail)
    with pytest.raises(OSError, match="disk full"):
        export_onnx(model, report.path, normalize=False)
    assert sorted(os.listdir(report.path.parent)) == [report.path.name, report.data_path.name]
    assert check_probes(report.path, "cpu").passed


def rewrite(report, location=None, record=None):
    model = onnx.load(report.path, load_external_data=False)
    content = json.loads(model.metadata_props[0].value)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if location is not None and entry.key == "location":
                entry.value = location
    content |= {} if record is None else {"data_file": record}
    content.pop("metadata_hash", None)
    model.metadata_props[0].value = json.dumps(content | {"content_hash": content_hash(model.SerializeToString())})
    report.path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "location", ["../secret.data", "/etc/passwd", "..", "encoder.onnx", "sub/../x.data", "other.data"]
)
def test_no_other_file_is_opened(location, exported):
    _, report = exported
    rewrite(report, location)
    with pytest.raises(ModelFileError, match="external data"):
        OnnxEncoder(report.path)
    rewrite(report, location, {"name": location, "bytes": 1, "sha256": "0"})  # nor if the metadata agree
    with pytest.raises(ModelFileError, match="external data"):
        OnnxEncoder(report.path)


@pytest.mark.parametrize("record", [None, [], {}, {"name": 3}, {"name": ["x"]}])
def test_a_wrong_record(record, exported):
    _, report = exported
    rewrite(report, record=record if record is not None else "text")
    with pytest.raises(ModelFileError, match=r"external data|must hold the types"):
        OnnxEncoder(report.path)


def test_a_missing_changed_or_linked_data_file(exported, tmp_path):
    _, report = exported
    data = report.data_path.read_bytes()
    report.data_path.write_bytes(data[:-1])
    with pytest.raises(ModelFileError, match="bytes instead of"):
        OnnxEncoder(report.path)
    report.data_path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(ModelFileError, match="SHA-256"):
        OnnxEncoder(report.path)
    report.data_path.unlink()
    with pytest.raises(ModelFileError, match=r"no such file.*Copy both files"):
        OnnxEncoder(report.path)
    (tmp_path / "elsewhere").write_bytes(data)
    report.data_path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelFileError, match="a link"):
        OnnxEncoder(report.path)


@pytest.mark.slow
def test_more_than_two_gib(tmp_path):
    rows = (1 << 31) // (4 * 1024) + 1000  # of 1,024 float32: 2 GiB and 4 MB
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(rows, 1024, embeddings_initializer=keras.initializers.RandomUniform(-1, 1, seed=1)),
            layers.GlobalAveragePooling1D(),
            layers.Dense(8),
        ]
    )
    report = export_onnx(model, tmp_path / "encoder.onnx")
    assert report.data_path.stat().st_size > 1 << 31
    x = np.array([[0, rows - 1, 5]], "int32")
    expected = model.predict(x, verbose=0)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(OnnxEncoder(report.path).encode(x), expected, atol=1e-5)
