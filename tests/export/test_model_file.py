"""Hostile and damaged files: a clear error, no crash, no read of another file."""

import contextlib
import hashlib
import itertools
import json
import pickle
import resource
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from keras_tfcl.atomic_write import write_atomically
from keras_tfcl.export import ModelFileError, OnnxEncoder
from keras_tfcl.export.runtime import encoder as encoder_module
from keras_tfcl.export.runtime.metadata import dump_metadata
from keras_tfcl.export.runtime.model_file import check_model_file, content_hash


def model_bytes():
    matrix = onnx.numpy_helper.from_array(np.ones((6, 4), "float32"), "matrix")
    return model_with([matrix]).SerializeToString()


def model_with(initializers, nodes=()):
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["features", "matrix"], ["embedding"])],
        "by hand",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ("batch", 6))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("batch", 4))],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx.*export_onnx"):
        OnnxEncoder(tmp_path / "nothing.onnx")


@pytest.mark.parametrize(
    ("step", "recorded"),
    [("check_model_file", True), ("open_session", True), ("hash_of", False), ("open_session", False)],
)
def test_a_file_that_is_replaced_while_it_is_opened_comes_whole(tmp_path, monkeypatch, step, recorded):
    path, run = tmp_path / "file.onnx", getattr(encoder_module, step)

    def write(number):
        model = model_with([onnx.numpy_helper.from_array(np.full((6, 4), number, "float32"), "matrix")])
        if recorded:
            metadata = {"schema": 1, "weights_sha256": f"of {number}", "content_hash": "none"}
            metadata["content_hash"] = content_hash(model.SerializeToString())
            helper.set_model_props(model, {"keras_tfcl": json.dumps(metadata)})
        write_atomically(path, model.SerializeToString())

    def run_then_replace(*arguments):
        monkeypatch.setattr(encoder_module, step, run)
        found = run(*arguments)
        write(2)
        return found

    write(1)
    monkeypatch.setattr(encoder_module, step, run_then_replace)
    encoder = OnnxEncoder(path)
    assert encoder.encode(np.ones((1, 6), "float32")).tolist() == [[12] * 4]
    assert encoder.weights_hash == OnnxEncoder(path).weights_hash


def test_the_hash_of_a_file_is_that_of_the_weights_in_memory(tmp_path):
    path = tmp_path / "file.onnx"
    path.write_bytes(model_bytes())
    encoder, again = OnnxEncoder(path), OnnxEncoder(path)
    path.unlink()
    assert encoder.weights_hash == again.weights_hash


def test_a_pickled_encoder_refuses_other_weights(tmp_path):
    path = tmp_path / "file.onnx"
    path.write_bytes(model_bytes())
    pickled = pickle.dumps(OnnxEncoder(path, batch_size=3))
    assert pickle.loads(pickled).batch_size == 3
    path.write_bytes(
        model_with([onnx.numpy_helper.from_array(np.zeros((6, 4), "float32"), "matrix")]).SerializeToString()
    )
    with pytest.raises(ModelFileError, match=r"must find the weights that it had.*file\.onnx, which was replaced"):
        pickle.loads(pickled)


def test_folder(tmp_path):
    with pytest.raises(ModelFileError, match="a folder"):
        OnnxEncoder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x00" * 100, b"\xff" * 100, b"PK\x03\x04zip", b"{}"])
def test_not_onnx(tmp_path, content, capfd):
    (tmp_path / "file.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match="Expected"):
        OnnxEncoder(tmp_path / "file.onnx")
    assert capfd.readouterr() == ("", "")


def test_truncated_anywhere(tmp_path):
    whole = model_bytes()
    path = tmp_path / "file.onnx"
    path.write_bytes(whole)
    assert OnnxEncoder(path).dimension == 4
    refused = 0
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        try:
            OnnxEncoder(path)
        except ModelFileError:
            refused += 1
    # a cut at the end of a top-level field after the graph leaves a message that parses but has no opset
    assert refused == len(range(0, len(whole), 3))


def test_flipped_bytes_never_escape_the_error_family(tmp_path):
    whole = bytearray(model_bytes())
    generator = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for position in generator.integers(0, len(whole), 3):
            damaged[position] = generator.integers(0, 256)
        (tmp_path / "file.onnx").write_bytes(damaged)
        try:
            OnnxEncoder(tmp_path / "file.onnx")
        except ModelFileError:
            continue


def external(name, location):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[6, 4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_attribute(tensor):
    return helper.make_node("Constant", [], ["matrix"], value=tensor)


def in_branch(tensor):
    branch = helper.make_graph([helper.make_node("Constant", [], ["out"], value=tensor)], "branch", [], [
        helper.make_tensor_value_info("out", TensorProto.FLOAT, (6, 4))
    ])  # fmt: skip
    return helper.make_node("If", ["condition"], ["matrix"], then_branch=branch, else_branch=branch)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd"])
@pytest.mark.parametrize("place", ["initializer", "attribute", "branch", "local function"])
def test_external_data_is_refused_wherever_it_hides(tmp_path, location, place):
    (tmp_path / "weights.bin").write_bytes(np.ones((6, 4), "float32").tobytes())
    tensor = external("matrix", location)
    if place == "initializer":
        model = model_with([tensor])
    elif place == "attribute":
        model = model_with([], [in_attribute(tensor)])
    elif place == "branch":
        condition = onnx.numpy_helper.from_array(np.array(True), "condition")
        model = model_with([condition], [in_branch(tensor)])
    else:
        model = onnx.load_from_string(model_bytes())
        opsets = [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("local", "f", [], ["matrix"], [in_attribute(tensor)], opsets))
    path = tmp_path / "file.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="external data"):
        OnnxEncoder(path)


def test_location_alone_marks_external_data(tmp_path):
    """`data_location` without a list of external data, and the list without `data_location`."""
    for field in ("external_data", "data_location"):
        tensor = external("matrix", "weights.bin")
        tensor.ClearField(field)
        (tmp_path / "file.onnx").write_bytes(model_with([tensor]).SerializeToString())
        with pytest.raises(ModelFileError, match="external data"):
            OnnxEncoder(tmp_path / "file.onnx")


@pytest.mark.parametrize(
    "dims", [[1 << 40, 1 << 20], [6, 1 << 61], [-6, 4], [6, 4, 1 << 30], [0]], ids=lambda dims: str(dims)
)
def test_a_tensor_that_claims_to_be_huge(dims, tmp_path):
    """Refused without an attempt to allocate it: a worker with 8 GB of address space would not survive one."""
    tensor = onnx.numpy_helper.from_array(np.ones((6, 4), "float32"), "matrix")
    tensor.dims[:] = dims
    (tmp_path / "file.onnx").write_bytes(model_with([tensor]).SerializeToString())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFileError):
        OnnxEncoder(tmp_path / "file.onnx")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # kB


@pytest.mark.parametrize("dimension", [0, 1 << 40])
def test_an_embedding_that_claims_to_be_huge(dimension, tmp_path):
    model = model_with([onnx.numpy_helper.from_array(np.ones((6, 4), "float32"), "matrix")])
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = dimension
    (tmp_path / "file.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError):
        OnnxEncoder(tmp_path / "file.onnx")


@pytest.mark.parametrize(
    "metadata",
    [
        "[]", "null", "3", "{}", '{"schema": "1"}', '{"schema": 0}', '{"schema": 99}', "{" * 100_000, "\u0000", "NaN",
        '{"schema": 1, "dimension": "4"}', '{"schema": 1, "dimension": 5}', '{"schema": 1, "parity": [1]}',
        '{"schema": 1, "normalized": "yes"}', '{"schema": 1, "inputs": {}}', '{"schema": 1, "probes": "x"}',
        '{"schema": 1, "versions": []}', '{"schema": 1, "data_file": 7}', "[" * 100_000,
    ],
    ids=lambda text: text[:32],
)  # fmt: skip
def test_metadata_of_wrong_types(metadata, tmp_path):
    model = onnx.load_from_string(model_bytes())
    helper.set_model_props(model, {"keras_tfcl": metadata})
    (tmp_path / "file.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="etadata"):
        OnnxEncoder(tmp_path / "file.onnx")


def test_random_bytes(tmp_path):
    generator = np.random.default_rng(3)
    for length in range(1, 2000, 37):
        (tmp_path / "file.onnx").write_bytes(generator.bytes(length))
        with pytest.raises(ModelFileError):
            OnnxEncoder(tmp_path / "file.onnx")


def test_deep_nesting_is_refused(tmp_path):
    def wrapped(field, content):
        length = len(content)
        size = b""
        while True:
            size += bytes([length & 127 | (128 if length > 127 else 0)])
            length >>= 7
            if not length:
                return bytes([field << 3 | 2]) + size + content

    content = b""
    for _ in range(2000):  # graph (7) > node (1) > attribute (5) > graph (6) > node ...
        content = wrapped(1, wrapped(5, wrapped(6, content)))
    (tmp_path / "file.onnx").write_bytes(wrapped(7, content))
    with pytest.raises(ModelFileError, match="nested"):
        OnnxEncoder(tmp_path / "file.onnx")


def test_content_hash_covers_all_bytes_but_our_metadata():
    model = onnx.load_from_string(model_bytes())
    helper.set_model_props(model, {"another tool": "was here"})
    whole = model.SerializeToString()
    expected = "sha256:" + hashlib.sha256(whole).hexdigest()
    assert content_hash(whole) == expected
    ours = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key="keras_tfcl", value="{}" * 300)])
    entry = ours.SerializeToString()
    assert content_hash(whole + entry) == content_hash(entry + whole) == expected
    for position in range(0, len(whole), 7):
        damaged = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
        try:
            assert content_hash(damaged + entry) != expected
        except ModelFileError:  # the framing itself is damaged
            continue


def exported(path, **facts):
    """A model with the metadata of an export, its hash among them."""
    model = onnx.load_from_string(model_bytes())
    facts = {"schema": 1, "content_hash": content_hash(model.SerializeToString())} | facts
    helper.set_model_props(model, {"keras_tfcl": json.dumps(facts)})
    onnx.save(model, path)
    return path


class TestContentHash:
    def test_an_unchanged_file_loads(self, tmp_path):
        path = exported(tmp_path / "x.onnx", notes={"a": 1})
        assert OnnxEncoder(path).metadata["notes"] == {"a": 1}

    @pytest.mark.parametrize("change", ["a bit of a weight", "a node", "an entry of other metadata"])
    def test_a_change_is_noticed(self, tmp_path, change):
        path = exported(tmp_path / "x.onnx")
        model = onnx.load(path)
        if change == "a bit of a weight":
            raw = bytearray(model.graph.initializer[0].raw_data)
            raw[40] ^= 1
            model.graph.initializer[0].raw_data = bytes(raw)
        elif change == "a node":
            model.graph.node[0].name = "another"
        else:
            model.metadata_props.add(key="a", value="b")
        onnx.save(model, path)
        with pytest.raises(ModelFileError, match=r"must be those that were exported.*set_model_props\(model, \{\}\)"):
            OnnxEncoder(path)
        helper.set_model_props(model, {})  # the remedy, where the change was meant
        onnx.save(model, path)
        assert OnnxEncoder(path).metadata == {}

    def test_files_without_a_hash_load(self, tmp_path):
        (tmp_path / "foreign.onnx").write_bytes(model_bytes())
        OnnxEncoder(tmp_path / "foreign.onnx")

    def test_a_hash_that_is_no_text(self, tmp_path):
        with pytest.raises(ModelFileError, match="content_hash of type int"):
            OnnxEncoder(exported(tmp_path / "x.onnx", content_hash=5))


class TestMetadataHash:
    FACTS: ClassVar = {
        "dimension": 4,
        "normalized": True,
        "notes": {"run": "a", "image": {"range": [0, 1]}},
        "parity": {"scale": 0.25},
        "tokenizer": "caf\u00e9",
    }

    def text(self, **changes):
        return json.loads(dump_metadata(self.FACTS)) | changes

    def load(self, path, content):
        model = onnx.load_from_string(model_bytes())
        helper.set_model_props(model, {"keras_tfcl": content if isinstance(content, str) else json.dumps(content)})
        onnx.save(model, path)
        return OnnxEncoder(path).metadata

    @pytest.mark.parametrize("indent", [None, 2])
    def test_unchanged_metadata_load_however_they_are_written(self, tmp_path, indent):
        assert self.load(tmp_path / "x.onnx", json.dumps(self.text(), indent=indent))["dimension"] == 4

    @pytest.mark.parametrize(
        "changes",
        [{"normalized": False}, {"parity": {"scale": 0.26}}, {"more": 1}, {"notes": {**FACTS["notes"], "run": "b"}}],
        ids=lambda changes: next(iter(changes)),
    )
    def test_a_change_is_noticed(self, tmp_path, changes):
        with pytest.raises(ModelFileError, match=r"metadata .* must be those that were exported.*`metadata_hash`"):
            self.load(tmp_path / "x.onnx", self.text(**changes))

    def test_a_change_that_was_meant_drops_the_hash(self, tmp_path):
        content = self.text(normalized=False)
        del content["metadata_hash"]
        assert self.load(tmp_path / "x.onnx", content)["normalized"] is False

    def test_a_flipped_bit_is_noticed_wherever_it_is(self, tmp_path):
        """It makes the file unreadable, or leaves the metadata as they were but for the name of the hash."""
        model = onnx.load_from_string(model_bytes())
        entry = onnx.StringStringEntryProto(key="keras_tfcl", value=dump_metadata(self.FACTS))
        added = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
        path, whole = tmp_path / "x.onnx", model.SerializeToString()
        path.write_bytes(whole + added)
        expected = check_model_file(path)
        del expected["metadata_hash"]
        loaded = 0
        for position, bit in itertools.product(range(len(added)), range(8)):
            damaged = bytearray(added)
            damaged[position] ^= 1 << bit
            path.write_bytes(whole + damaged)
            with contextlib.suppress(ModelFileError):
                assert check_model_file(path).items() >= expected.items(), (position, bit)
                loaded += 1
        assert loaded <= 8 * len("metadata_hash")
