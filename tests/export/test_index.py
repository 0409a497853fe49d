"""An index of embeddings: found beside a brute-force search in float64, kept in one file, bound to its encoder."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from keras_tfcl.export import Index, InputError, ModelFileError, OnnxEncoder

RNG = np.random.default_rng(0)


def nearest(vectors, queries, k):
    """By definition, in float64."""
    v, q = (np.asarray(x, "float64") / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors, queries))
    cosines = q @ v.T
    order = np.argsort(-cosines, axis=1)[:, :k]
    return order, np.take_along_axis(cosines, order, axis=1)


@pytest.mark.parametrize("count", [1, 7, 5000])
def test_exact_search_is_brute_force(count, monkeypatch):
    monkeypatch.setattr("keras_tfcl.export.runtime.index.BLOCK", 1024)
    vectors, queries = RNG.normal(size=(count, 24)), RNG.normal(size=(70, 24))
    index = Index(24)
    index.add(vectors)
    order, cosines = nearest(vectors, queries, 5)
    found = index.search(queries, k=5)
    assert [[hit.id for hit in hits] for hits in found] == order.tolist()
    np.testing.assert_allclose([[hit.score for hit in hits] for hits in found], cosines, atol=1e-6)


def test_equal_vectors_come_in_the_order_in_which_they_were_added(monkeypatch):
    monkeypatch.setattr("keras_tfcl.export.runtime.index.BLOCK", 4)
    index = Index(2)
    index.add([[1, 0]] * 3 + [[0, 1]] * 5 + [[1, 0]] * 9)
    assert [[hit.id for hit in hits] for hits in index.search([[1, 0]] * 2, k=6)] == [[0, 1, 2, 8, 9, 10]] * 2


def test_many_queries_need_little_memory():
    index = Index(4)
    index.add(RNG.normal(size=(20_000, 4)))
    queries = RNG.normal(size=(300, 4))
    tracemalloc.start()
    index.search(queries)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.99), ("binary", 0.6)])
def test_coarse_precisions_are_compared_again_in_full(precision, least):
    centres = RNG.normal(size=(50, 64))
    vectors = centres[RNG.integers(0, 50, 3000)] + 0.5 * RNG.normal(size=(3000, 64))
    index = Index(64, precision)
    index.add(vectors)
    order, _ = nearest(vectors, vectors[:40], 10)
    found = [{hit.id for hit in hits} for hits in index.search(vectors[:40], k=10)]
    recall = np.mean([len(f & set(o.tolist())) / 10 for f, o in zip(found, order, strict=True)])
    assert recall > least
    for hits, exact in zip(index.search(vectors[:5]), index.search(vectors[:5], exact=True), strict=True):
        scores = {hit.id: hit.score for hit in exact}
        assert all(hit.score == pytest.approx(scores[hit.id], abs=1e-6) for hit in hits if hit.id in scores)


def test_a_graph_says_its_recall_and_comes_back_from_the_file(tmp_path):
    pytest.importorskip("usearch")
    vectors = RNG.normal(size=(3000, 64))
    index = Index(64)
    index.add(vectors)
    assert index.build_graph() > 0.8
    index.save(tmp_path / "graph.index")
    again = Index.load(tmp_path / "graph.index")
    assert again.has_graph
    queries = RNG.normal(size=(100, 64))
    assert again.search(queries) == index.search(queries)
    with np.load(tmp_path / "graph.index") as file:
        parts = dict(file)
    other = Index(64)
    other.add(vectors[:20])
    other.build_graph()
    for graph in (parts["graph"][:999], other._graph.save()):
        np.savez(tmp_path / "damaged.npz", **(parts | {"graph": np.frombuffer(graph, np.uint8)}))
        with pytest.raises(ModelFileError, match="Build it again"):
            Index.load(tmp_path / "damaged.npz")
    again.add(vectors[:1], ids=["new"])
    assert not again.has_graph  # it would not know the new vector
    with pytest.raises(InputError, match="A graph needs vectors"):
        Index(16).build_graph()


def test_the_recall_of_a_graph_takes_equal_vectors_for_each_other():
    pytest.importorskip("usearch")
    index = Index(4)
    index.add(np.ones((50, 4)))
    assert index.build_graph() == 1


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_length_of_a_vector_does_not_matter(size):
    index = Index(2)
    index.add(size * np.eye(2))
    found = index.search([[3 * size, 4 * size]], k=2)[0]
    assert [(hit.id, hit.score) for hit in found] == [(1, pytest.approx(0.8)), (0, pytest.approx(0.6))]


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_save_and_load_keep_everything(tmp_path, precision):
    index = Index(8, precision)
    index.add(RNG.normal(size=(20, 8)), ids=[f"photo {i}" for i in range(20)], metadata=[{"n": i} for i in range(20)])
    index.save(tmp_path / "a.index")
    again = Index.load(tmp_path / "a.index")
    queries = RNG.normal(size=(3, 8))
    assert again.search(queries) == index.search(queries)
    assert isinstance(again._vectors, np.memmap)
    with np.load(tmp_path / "a.index") as plain:  # a plain NumPy file
        assert plain["vectors"].shape == (20, 8)


def test_a_file_that_is_replaced_while_it_is_read_comes_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.index"
    small, large = Index(4), Index(4)
    small.add(np.eye(4))
    large.add(RNG.normal(size=(100, 4)))
    large.save(path)
    listed = zipfile.ZipFile.infolist

    def replace_then_list(archive):
        monkeypatch.setattr(zipfile.ZipFile, "infolist", listed)
        small.save(path)
        return listed(archive)

    monkeypatch.setattr(zipfile.ZipFile, "infolist", replace_then_list)
    for written in (large, small):
        np.testing.assert_array_equal(Index.load(path)._vectors, written._vectors)


def test_a_file_that_is_written_in_place_is_refused(tmp_path):
    path = tmp_path / "x.index"
    for content in ("of the same size", b""):  # other vectors for these ids, or none: the process would be killed
        index = Index(4)
        index.add(np.eye(4))
        index.save(path)
        os.utime(path, (1, 1))
        loaded = Index.load(path)
        index.save(path)  # beside it
        assert loaded.search(np.eye(4)) == index.search(np.eye(4))
        loaded = Index.load(path)
        os.utime(path, (1, 1))
        path.write_bytes(path.read_bytes() if content else b"")
        for use, argument in ((loaded.search, np.eye(4)), (loaded.save, path)):
            with pytest.raises(ModelFileError, match="must not be written in place"):
                use(argument)


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_an_empty_index_finds_nothing(precision):
    assert Index(4, precision).search(np.eye(4)) == [[]] * 4


def test_add_replaces_and_delete_removes(tmp_path):
    index = Index(2)
    index.add([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"])
    index.add([[0.0, -1.0]], ids=["a"])
    assert len(index) == 2 and index.search([[0.0, -2.0]], k=1)[0][0].id == "a"
    assert index.delete(["a", "unknown"]) == 1
    assert [hit.id for hit in index.search([[0.0, -2.0]])[0]] == ["b"]
    index.save(tmp_path / "x.index")
    loaded = Index.load(tmp_path / "x.index")
    loaded.add([[1.0, 1.0]], ids=["c"])
    assert len(loaded) == 2 and "c" in loaded and "a" not in loaded


def test_numbers_given_by_default_replace_nothing():
    index = Index(2)
    index.add(np.eye(2))
    index.delete([0])
    index.add([[1.0, 1.0]])
    assert len(index) == 2 and 1 in index and 2 in index


def encoder(weights="1" * 64, dimension=2):
    return SimpleNamespace(dimension=dimension, weights_hash=weights)


def test_vectors_of_another_encoder_are_refused(tmp_path):
    index = Index(encoder())
    index.add(np.eye(2))
    index.save(tmp_path / "x.index")
    assert len(Index.load(tmp_path / "x.index", encoder())) == 2
    for other in (encoder("2" * 64), encoder(dimension=3)):
        with pytest.raises(InputError, match=r"only with the encoder that filled it\. Received: .* Build the index"):
            Index.load(tmp_path / "x.index", other)


def test_an_index_knows_the_rule_for_images_that_filled_it(tmp_path):
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["p"]), helper.make_node("Flatten", ["p"], ["embedding"])]
    ends = (("image", ("batch", 3, 4, 4)), ("embedding", ("batch", 3)))
    image, embedding = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in ends)
    model = helper.make_model(
        helper.make_graph(nodes, "x", image, embedding), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    encoders = []
    for number, (size, note) in enumerate([([4, 4], {}), ([4, 4], {}), ([8, 8], {}), ([4, 4], {"resize": "pad"})]):
        facts = {"schema": 1, "weights_sha256": "a", "preprocessing": {"size": size}, "notes": {"image": note}}
        helper.set_model_props(model, {"keras_tfcl": json.dumps(facts)})
        onnx.save(model, tmp_path / f"{number}.onnx")
        encoders.append(OnnxEncoder(tmp_path / f"{number}.onnx"))
    index = Index(encoders[0])
    index.check_encoder(encoders[1])
    for other in encoders[2:]:
        with pytest.raises(InputError, match="only with the encoder that filled it"):
            index.check_encoder(other)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda i: Index(0),
            ValueError,
            r"`encoder` must be .* Received: encoder=0\. Pass an OnnxEncoder, or the length",
        ),
        (lambda i: Index(2, "int4"), ValueError, r"`precision` must be .* Received: precision='int4'"),
        (lambda i: i.add(np.ones((2, 3))), InputError, r"Vectors must have shape \(N, 2\)\. Received: \(2, 3\)"),
        (lambda i: i.add(np.zeros((2, 2))), InputError, r"finite and not zero\. Received: 2 of 2"),
        (lambda i: i.add([[1, np.nan]]), InputError, r"finite and not zero"),
        (lambda i: i.add(np.eye(2), ids="ab"), InputError, r"`ids` must be a list\. Received: 'ab'"),
        (lambda i: i.delete("ab"), InputError, r"`ids` must be a list\. Received: 'ab'\. Write \['ab'\]"),
        (lambda i: i.delete(3), InputError, r"`ids` must be a list\. Received: 3"),
        (lambda i: i.build_graph(check=0), ValueError, r"`check` must be an integer of at least 1\. Received: check=0"),
        (lambda i: i.add(np.eye(2), ids=["a"]), InputError, r"one id for each vector\. Received: 1 for 2"),
        (lambda i: i.add(np.eye(2), ids=["a", "a"]), InputError, r"unique\. Received: 1 repeated"),
        (lambda i: i.add(np.eye(1, 2), ids=["caf\udce9.jpg"]), InputError, r"`ids` must be Unicode\. Received: 'caf"),
        (lambda i: i.add(np.eye(1, 2), metadata=[{"path": "caf\udce9.jpg"}]), InputError, r"what JSON can hold"),
        (lambda i: i.add(np.eye(2), ids=[1.5, 2.5]), InputError, r"integers or strings"),
        (lambda i: i.add(np.eye(2), metadata=[{}]), InputError, r"one dict for each vector\. Received: 1 for 2"),
        (lambda i: i.add(np.eye(1, 2), metadata=[{"x": {1}}]), InputError, r"what JSON can hold"),
        (lambda i: i.search(np.eye(2), k=0), ValueError, r"`k` must be an integer of at least 1\. Received: k=0"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(call, error, message):
    index = Index(2)
    with pytest.raises(error, match=message):
        call(index)
    assert len(index) == 0 and index.search(np.eye(2)) == [[], []]


@pytest.mark.parametrize("content", [b"", b"no index", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_no_index_is_refused(tmp_path, content):
    (tmp_path / "x.index").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"Expected an index that this library saved"):
        Index.load(tmp_path / "x.index")
    np.savez(tmp_path / "y.npz", vectors=np.eye(2))
    with pytest.raises(ModelFileError, match=r"Expected an index"):
        Index.load(tmp_path / "y.npz")


WRITER = """
import sys, numpy as np
from keras_tfcl.export.runtime.index import Index
index = Index(64)
index.add(np.random.default_rng(0).normal(size=(20_000, 64)))
print("ready", flush=True)
while True:
    index.save(sys.argv[1])
"""


def test_a_killed_write_leaves_a_whole_index(tmp_path):
    path = tmp_path / "x.index"
    env = {**os.environ, "KERAS_TFCL_ON_DEMAND": "1"}
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True, env=env
        ) as writer:
            writer.stdout.readline()
            time.sleep(0.3 + RNG.random())
            writer.send_signal(signal.SIGKILL)
        if path.exists():
            assert len(Index.load(path)) == 20_000
    assert path.exists()
