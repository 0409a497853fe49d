"""A file proves itself where it is served. That it needs no TensorFlow: test_export_imports.py."""

import base64
import json

import keras
import numpy as np
import onnx
import pytest

from keras_tfcl.export import ModelFileError, check_probes, export_onnx
from keras_tfcl.export.runtime.golden_inputs import Generator
from keras_tfcl.export.runtime.model_file import content_hash

layers = keras.layers


def token_encoder():
    ids, keep = keras.Input((None,), dtype="int32", name="ids"), keras.Input((None,), dtype="bool", name="keep")
    hidden = layers.Embedding(40, 8)(ids) * keras.ops.expand_dims(keras.ops.cast(keep, "float32"), 2)
    return keras.Model([ids, keep], layers.Dense(4)(layers.GlobalAveragePooling1D()(hidden)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = token_encoder()
    return model, export_onnx(model, tmp_path_factory.mktemp("probes") / "encoder.onnx")


def test_stored_embeddings_are_those_of_the_model(exported):
    model, report = exported
    parity = check_probes(report.path, providers="cpu")
    assert parity.passed
    assert parity.rows == 8
    stored = json.loads(onnx.load(report.path).metadata_props[0].value)["probes"]
    assert len(stored) == 2
    for probe in stored:
        inputs = [Generator.from_dict(probe["inputs"][name]).rows() for name in ("ids", "keep")]
        expected = model.predict(inputs, verbose=0)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        embeddings = np.frombuffer(base64.b64decode(probe["embeddings"]), "<f4").reshape(-1, 4)
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def changed(report, path, change):
    model = onnx.load(report.path)
    change(model)
    content = json.loads(model.metadata_props[0].value)
    content["content_hash"] = content_hash(model.SerializeToString())  # as a tool that knows what it changes
    del content["metadata_hash"]
    model.metadata_props[0].value = json.dumps(content)
    path.write_bytes(model.SerializeToString())
    return path


def test_other_weights_are_found(exported, tmp_path):
    def scale(model):
        tensor = next(t for t in model.graph.initializer if t.data_type == 1 and len(t.dims) == 2)
        values = np.frombuffer(tensor.raw_data, "float32") * np.linspace(1, 1.1, int(np.prod(tensor.dims)))
        tensor.raw_data = values.astype("float32").tobytes()

    assert not check_probes(changed(exported[1], tmp_path / "changed.onnx", scale), "cpu").passed


HOSTILE = {
    "a huge shape": ("ids", "shape", [1 << 40, 1 << 40]),
    "a negative size": ("ids", "shape", [-1, 3]),
    "no numbers": ("ids", "dtype", "object"),
    "an unknown type": ("ids", "dtype", "nonsense"),
    "a shape of text": ("ids", "shape", "large"),
    "no seed": ("ids", "seed", None),
    "other rows": ("ids", "shape", [3, 16]),
    "an empty range": ("ids", "high", -5),
    "a huge range": ("ids", "high", 1e300),
    "a negative seed": ("ids", "seed", -1),
}


@pytest.mark.parametrize(("name", "key", "value"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_probes(name, key, value, exported, tmp_path):
    def change(model):
        content = json.loads(model.metadata_props[0].value)
        content["probes"][0]["inputs"][name][key] = value
        model.metadata_props[0].value = json.dumps(content)

    with pytest.raises(ModelFileError, match="golden inputs"):
        check_probes(changed(exported[1], tmp_path / "hostile.onnx", change), "cpu")


@pytest.mark.parametrize("probes", [None, [], [1], ["x"], [{}], [{"inputs": {}, "embeddings": "?"}]])
def test_files_without_probes(probes, exported, tmp_path):
    def change(model):
        content = json.loads(model.metadata_props[0].value)
        content.pop("probes")
        model.metadata_props[0].value = json.dumps(content | ({} if probes is None else {"probes": probes}))

    with pytest.raises(ModelFileError, match="golden inputs"):
        check_probes(changed(exported[1], tmp_path / "without.onnx", change), "cpu")


def test_the_stream_of_a_generator_is_frozen():
    """The numbers that every NumPy must give again; RandomState's stream is documented as frozen (NEP 19)."""
    floats = Generator("float32", (1, 3), -2, 2, seed=5).rows()
    np.testing.assert_allclose(floats, [[-1.1120273, 1.4829292, -1.1731234]], rtol=1e-6)
    ids = Generator("int32", (2, 4), 0, 40, seed=5).rows()
    assert ids.dtype == np.int32
    assert ids[:, 0].tolist() == [1, 1]
    assert ids.max() < 40
