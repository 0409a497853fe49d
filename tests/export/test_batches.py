"""Streams larger than memory, batches padded to buckets, files of embeddings, warming up, and threads."""

import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from keras_tfcl.export import InputError, NonFiniteError, OnnxEncoder

MATRIX = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def save(path, nodes, inputs, output=("batch", 4), initializers=()):
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, output)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"keras_tfcl": '{"schema": 1, "weights_sha256": "abc"}'})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """embedding = features @ MATRIX"""
    matrix = onnx.numpy_helper.from_array(MATRIX, "matrix")
    nodes = [helper.make_node("MatMul", ["features", "matrix"], ["embedding"])]
    path = tmp_path_factory.mktemp("linear") / "linear.onnx"
    return save(path, nodes, [("features", TensorProto.FLOAT, ("batch", 6))], initializers=[matrix])


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory):
    nodes = [helper.make_node("Sub", ["left", "right"], ["embedding"])]
    inputs = [(name, TensorProto.FLOAT, ("batch", 4)) for name in ("left", "right")]
    return save(tmp_path_factory.mktemp("two") / "two.onnx", nodes, inputs)


@pytest.fixture
def encoder(file):
    return OnnxEncoder(file)


def rows(n):
    return np.random.default_rng(n).normal(size=(n, 6)).astype("float32")


def watch_sizes(encoder, monkeypatch):
    """The batch sizes that onnxruntime gets to see."""
    sizes, session = [], encoder._runner.session
    run = lambda names, feed: sizes.append(len(feed["features"])) or session.run(names, feed)  # noqa: E731
    monkeypatch.setattr(encoder._runner, "session", types.SimpleNamespace(run=run))
    return sizes


class TestBuckets:
    def test_padding_changes_no_embedding(self, file):
        padded, exact = OnnxEncoder(file, batch_size=32, buckets=True), OnnxEncoder(file, batch_size=32, buckets=False)
        for n in (*range(34), 63, 64, 65, 100):
            x = rows(n)
            np.testing.assert_allclose(padded.encode(x), exact.encode(x), rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(padded.encode(x), x.astype("float64") @ MATRIX, atol=1e-5)

    @pytest.mark.parametrize(
        ("n", "limit", "seen"),
        [(1, 32, [1]), (3, 32, [4]), (33, 32, [32, 1]), (77, 32, [32, 32, 16]), (23, 20, [20, 4])],
    )
    def test_sizes_are_powers_of_two_up_to_the_batch_size(self, file, monkeypatch, n, limit, seen):
        encoder = OnnxEncoder(file, buckets=True)
        sizes = watch_sizes(encoder, monkeypatch)
        encoder.encode(rows(n), batch_size=limit)
        assert sizes == seen

    def test_many_sizes_become_few(self, file, monkeypatch):
        encoder = OnnxEncoder(file, buckets=True)
        sizes = watch_sizes(encoder, monkeypatch)
        for n in range(1, 257):
            encoder.encode(rows(n))
        assert set(sizes) == {1, 2, 4, 8, 16, 32, 64, 128, 256}

    @pytest.mark.parametrize("choice", [{}, {"buckets": False}], ids=["on the CPU", "off"])
    def test_off(self, file, monkeypatch, choice):
        encoder = OnnxEncoder(file, **choice)
        sizes = watch_sizes(encoder, monkeypatch)
        encoder.encode(rows(77), batch_size=30)
        assert sizes == [30, 30, 17]

    def test_padding_is_made_of_valid_rows(self, tmp_path):
        """A row of zeros would divide by zero here, and token 0 would be out of range elsewhere."""
        nodes = [helper.make_node("Reciprocal", ["features"], ["embedding"])]
        path = save(tmp_path / "reciprocal.onnx", nodes, [("features", TensorProto.FLOAT, ("batch", 4))])
        encoder = OnnxEncoder(path, buckets=True)
        seen, session = [], encoder._runner.session
        encoder._runner.session = types.SimpleNamespace(
            run=lambda names, feed: seen.append(feed) or session.run(names, feed)
        )
        np.testing.assert_allclose(encoder.encode(np.full((3, 4), 2.0)), 0.5)
        assert (seen[0]["features"] == 2.0).all()

    def test_on_where_another_provider_runs_the_model(self, file, monkeypatch):
        gpu = property(lambda encoder: ("CUDAExecutionProvider", "CPUExecutionProvider"))
        monkeypatch.setattr(OnnxEncoder, "providers", gpu)
        encoder = OnnxEncoder(file)
        sizes = watch_sizes(encoder, monkeypatch)
        encoder.encode(rows(77))
        assert sizes == [128]

    @pytest.mark.parametrize("setting", [{"low_memory": True}, {"spinning": False}])
    def test_low_memory_and_waits_without_spinning_give_the_same(self, file, setting):
        np.testing.assert_allclose(OnnxEncoder(file, **setting).encode(rows(9)), rows(9) @ MATRIX, atol=1e-5)


class TestStreams:
    @pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 40])
    def test_rows_are_gathered(self, encoder, n):
        parts = list(encoder.encode_iter(iter(rows(n)), batch_size=8))
        assert [len(part) for part in parts] == [8] * (n // 8) + [n % 8] * bool(n % 8)
        np.testing.assert_allclose(np.concatenate([np.empty((0, 4)), *parts]), rows(n) @ MATRIX, atol=1e-5)

    def test_batches_stay_batches(self, encoder):
        batches = [rows(n) for n in (3, 20, 0, 1)]
        parts = list(encoder.encode_iter(iter(batches), batch_size=8))
        assert [part.shape for part in parts] == [(3, 4), (20, 4), (0, 4), (1, 4)]
        for batch, part in zip(batches, parts, strict=True):
            np.testing.assert_allclose(part, batch @ MATRIX, atol=1e-5)

    def test_an_array_is_cut_into_batches(self, encoder):
        parts = list(encoder.encode_iter(rows(20), batch_size=8))
        assert [len(part) for part in parts] == [8, 8, 4]

    @pytest.mark.parametrize("form", [tuple, lambda pair: {"left": pair[0], "right": pair[1]}], ids=["tuple", "dict"])
    @pytest.mark.parametrize("batched", [False, True])
    def test_several_inputs(self, two_inputs, form, batched):
        left, right = rows(10)[:, :4], rows(10)[:, 2:]
        items = [(left[:5], right[:5]), (left[5:], right[5:])] if batched else zip(left, right, strict=True)
        parts = list(OnnxEncoder(two_inputs).encode_iter((form(pair) for pair in items), batch_size=4))
        np.testing.assert_allclose(np.concatenate(parts), left - right, atol=1e-6)

    def test_no_more_is_read_than_a_batch(self, encoder):
        taken = []
        stream = (taken.append(i) or row for i, row in enumerate(rows(100)))
        parts = encoder.encode_iter(stream, batch_size=8)
        assert taken == []
        next(parts)
        assert taken == list(range(8))
        next(parts)
        assert taken == list(range(16))

    def test_bad_row_counts_from_the_start_of_the_stream(self, encoder):
        x = rows(30)
        x[23] = np.nan
        for stream in (iter(x), iter([x[:20], x[20:]])):
            with pytest.raises(InputError, match="row 23"):
                list(encoder.encode_iter(stream, batch_size=8))

    def test_rows_of_different_shapes(self, encoder):
        with pytest.raises(InputError, match="one form and one shape"):
            list(encoder.encode_iter(iter([np.ones(6), np.ones(5)])))

    def test_the_remedy_for_rows_of_different_lengths(self, tmp_path):
        nodes = [helper.make_node("ReduceMean", ["x"], ["embedding"], axes=[1], keepdims=0)]
        encoder = OnnxEncoder(save(tmp_path / "free.onnx", nodes, [("x", TensorProto.FLOAT, ("batch", "length", 4))]))
        stream = [np.full((length, 4), length) for length in (1, 5, 2)]
        with pytest.raises(InputError, match="batch_size=1"):
            list(encoder.encode_iter(iter(stream)))
        assert [part[0, 0] for part in encoder.encode_iter(iter(stream), batch_size=1)] == [1, 5, 2]

    @pytest.mark.parametrize("bad", [7, object(), iter([np.ones((2, 3, 6))]), iter(["cat.jpg"])])
    def test_what_is_no_stream(self, encoder, bad):
        with pytest.raises(InputError):
            list(encoder.encode_iter(bad))

    def test_encode_says_what_to_use_for_a_stream(self, encoder):
        with pytest.raises(InputError, match="encode_iter"):
            encoder.encode(iter(rows(3)))

    def test_arguments_are_judged_at_once(self, encoder):
        with pytest.raises(ValueError, match="batch_size"):
            encoder.encode_iter(iter(rows(3)), batch_size=0)


class TestFiles:
    @pytest.mark.parametrize("n", [0, 1, 1000])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_npy(self, encoder, tmp_path, n, streamed):
        path = tmp_path / "embeddings.npy"
        assert encoder.encode_to(iter(rows(n)) if streamed else rows(n), path, batch_size=64) == n
        read = np.load(path, mmap_mode="r" if n else None)
        assert (read.shape, read.dtype) == ((n, 4), np.float32)
        np.testing.assert_allclose(read, rows(n) @ MATRIX, atol=1e-5)
        assert [file.name for file in tmp_path.iterdir()] == ["embeddings.npy"]

    @pytest.mark.parametrize(
        ("ids", "expected"),
        [
            (None, list(range(100))),
            (range(500, 600), list(range(500, 600))),
            ((f"row {i}" for i in range(100)), [f"row {i}" for i in range(100)]),
        ],
        ids=["numbers", "integers", "text"],
    )
    def test_parquet(self, encoder, tmp_path, ids, expected):
        parquet = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "embeddings.parquet"
        assert encoder.encode_to(iter(rows(100)), path, ids=ids, batch_size=32) == 100
        table = parquet.read_table(path)
        assert table.column_names == ["id", "embedding"]
        assert table["id"].to_pylist() == expected
        np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), rows(100) @ MATRIX, atol=1e-5)
        assert b'"weights_sha256": "abc"' in table.schema.metadata[b"keras_tfcl"]

    @pytest.mark.parametrize(("n", "ids"), [(100, None), (100, [f"row {i}" for i in range(100)]), (0, None)])
    def test_npz(self, encoder, tmp_path, n, ids):
        assert encoder.encode_to(iter(rows(n)), tmp_path / "x.npz", ids=ids, batch_size=32) == n
        with np.load(tmp_path / "x.npz") as file:
            assert sorted(file.files) == ["embedding", "id"]
            assert file["id"].tolist() == (ids or list(range(n)))
            np.testing.assert_allclose(file["embedding"], rows(n) @ MATRIX, atol=1e-5)
        assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]

    @pytest.mark.parametrize("batch_size", [100, 7_000, 40_000])
    def test_groups_of_a_parquet_file_are_large_whatever_the_batch_size(self, encoder, tmp_path, batch_size):
        parquet = pytest.importorskip("pyarrow.parquet")
        x = np.resize(rows(1000), (40_000, 6))
        encoder.encode_to(x, tmp_path / "x.parquet", ids=range(5, 40_005), batch_size=batch_size)
        file = parquet.ParquetFile(tmp_path / "x.parquet").metadata
        sizes = [file.row_group(group).num_rows for group in range(file.num_row_groups)]
        assert sum(sizes) == 40_000 and all(size >= 16_384 for size in sizes[:-1])
        table = parquet.read_table(tmp_path / "x.parquet")
        assert table["id"].to_pylist() == list(range(5, 40_005))
        np.testing.assert_allclose(np.stack(table["embedding"].to_pylist()), x @ MATRIX, atol=1e-5)

    def test_an_empty_batch_comes_first(self, encoder, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        encoder.encode_to(iter([rows(0), rows(3)]), tmp_path / "x.parquet", ids="abc")
        assert parquet.read_table(tmp_path / "x.parquet")["id"].to_pylist() == ["a", "b", "c"]

    @pytest.mark.parametrize("count", [0, 7, 9, 20])
    def test_ids_must_be_as_many_as_rows(self, encoder, tmp_path, count):
        pytest.importorskip("pyarrow")
        with pytest.raises(ValueError, match="one item for each row"):
            encoder.encode_to(rows(8), tmp_path / "x.parquet", ids=range(count), batch_size=4)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("suffix", ["npy", "parquet"])
    def test_failure_keeps_the_old_file(self, encoder, tmp_path, suffix):
        path = tmp_path / f"x.{suffix}"
        encoder.encode_to(rows(8), path)
        before = path.read_bytes()
        x = rows(50)
        x[40] = np.inf
        with pytest.raises(InputError, match="row 40"):
            encoder.encode_to(iter(x), path, batch_size=8)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == [path.name]

    def test_what_cannot_be_written(self, encoder, tmp_path):
        with pytest.raises(ValueError, match=r"\.npy, \.npz or \.parquet"):
            encoder.encode_to(rows(2), tmp_path / "x.csv")
        with pytest.raises(ValueError, match="holds no ids"):
            encoder.encode_to(rows(2), tmp_path / "x.npy", ids=[1, 2])
        for ids, message in (
            ([1, "two"], "all integers or all text"),
            (["one", 2], "all integers or all text"),
            ([1, 2**70], "`ids` must be integers of 64 bits"),
        ):
            with pytest.raises(ValueError, match=message):
                encoder.encode_to(rows(2), tmp_path / "x.npz", ids=ids)
        pytest.importorskip("pyarrow")
        with pytest.raises(ValueError, match=r"`ids` in a \.parquet file must be Unicode.*Rename that file"):
            encoder.encode_to(rows(1), tmp_path / "x.parquet", ids=["caf\udce9.jpg"])
        with pytest.raises(FileNotFoundError, match="folder"):
            encoder.encode_to(rows(2), tmp_path / "missing" / "x.npy")
        (tmp_path / "folder.npy").mkdir()
        with pytest.raises(IsADirectoryError):
            encoder.encode_to(rows(2), tmp_path / "folder.npy")

    def test_missing_pyarrow_names_the_extra(self, encoder, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
        with pytest.raises(ImportError, match=r"keras-tfcl\[parquet\]"):
            encoder.encode_to(rows(2), tmp_path / "x.parquet")


class TestWarmup:
    def test_runs_at_each_size(self, encoder, monkeypatch):
        sizes = watch_sizes(encoder, monkeypatch)
        seconds = encoder.warmup((1, 8, 64))
        assert sizes == [1, 8, 64] == list(seconds)
        assert all(value > 0 for value in seconds.values())

    def test_free_dimensions_need_real_rows(self, tmp_path):
        nodes = [helper.make_node("ReduceMean", ["x"], ["embedding"], axes=[1], keepdims=0)]
        encoder = OnnxEncoder(save(tmp_path / "free.onnx", nodes, [("x", TensorProto.FLOAT, ("batch", "length", 4))]))
        with pytest.raises(InputError, match="Give a batch of real input"):
            encoder.warmup()
        assert list(encoder.warmup((2,), like=np.ones((1, 5, 4)))) == [2]

    def test_sizes_must_be_positive(self, encoder):
        with pytest.raises(ValueError, match="sizes"):
            encoder.warmup((0,))

    def test_infinite_embeddings_of_zeros_do_not_matter(self, tmp_path):
        nodes = [helper.make_node("Reciprocal", ["features"], ["embedding"])]
        encoder = OnnxEncoder(save(tmp_path / "r.onnx", nodes, [("features", TensorProto.FLOAT, ("batch", 4))]))
        encoder.warmup()
        with pytest.raises(NonFiniteError):
            encoder.encode(np.zeros((1, 4)))


def test_threads_share_streams_files_and_arrays(encoder, tmp_path):
    """Eight threads at once, each with other rows and sizes."""
    barrier = threading.Barrier(8)

    def work(i):
        barrier.wait()
        x = rows(200 + i)
        encoder.encode_to(iter(x), tmp_path / f"{i}.npy", batch_size=3 + i)
        return np.concatenate(list(encoder.encode_iter(iter(x), batch_size=5 + i))), encoder.encode(x, batch_size=7)

    with ThreadPoolExecutor(8) as pool:
        for i, results in enumerate(pool.map(work, range(8))):
            for embeddings in (*results, np.load(tmp_path / f"{i}.npy")):
                np.testing.assert_allclose(embeddings, rows(200 + i) @ MATRIX, atol=1e-5)


def test_progress_goes_to_stderr(encoder, capfd):
    pytest.importorskip("rich")
    quiet = encoder.encode(rows(10))
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(encoder.encode(rows(10), progress=True), quiet)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "10/10" in printed.err


def test_progress_without_rich_is_silent(encoder, capfd, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rich", None)
    assert encoder.encode(rows(10), progress=True).shape == (10, 4)
    assert capfd.readouterr() == ("", "")


def test_provider_options_reach_the_session(file):
    encoder = OnnxEncoder(file, providers=[("cpu", {"arena_extend_strategy": "kSameAsRequested"})])
    assert encoder.requested_providers == ("CPUExecutionProvider",) == encoder.providers
    np.testing.assert_allclose(encoder.encode(rows(2)), rows(2) @ MATRIX, atol=1e-5)


def test_requested_and_actual_providers_differ_without_a_gpu(file):
    with pytest.warns(UserWarning, match="not used"):
        encoder = OnnxEncoder(file, providers="cuda")
    assert encoder.requested_providers == ("CUDAExecutionProvider",)
    assert encoder.providers == ("CPUExecutionProvider",)


class TestRowsThatAreNotFinite:
    """`on_error` leaves them out, whatever the rows come in, and their ids go with them."""

    x = rows(25)
    x[[4, 17], 2] = np.nan, np.inf
    bad, good = (4, 17), [i for i in range(25) if i not in (4, 17)]

    @pytest.mark.parametrize("form", ["array", "rows", "batches", "float64"])
    def test_are_left_out_and_named(self, encoder, form):
        x = self.x.astype("float64") if form == "float64" else self.x
        if form == "float64":
            x[9, 0] = 1e300  # infinite in the type of the input
        stream = {"rows": iter(x), "batches": iter([x[:10], x[10:]])}.get(form, x)
        good = [i for i in self.good if not (form == "float64" and i == 9)]
        numbers = ", ".join(str(i) for i in range(25) if i not in good)
        with pytest.warns(
            UserWarning, match=rf"{25 - len(good)} of 25 rows are not finite and are left out: {numbers}\."
        ):
            found = np.concatenate([*encoder.encode_iter(stream, batch_size=7, on_error="skip")])
        np.testing.assert_array_equal(found, encoder.encode(self.x[good]))
        with pytest.raises(InputError, match="finite"):
            [*encoder.encode_iter(x, batch_size=7)]

    def test_a_function_gets_each(self, encoder):
        seen = []
        [*encoder.encode_iter(self.x, batch_size=7, on_error=lambda *given: seen.append(given))]
        assert [(position, "row " in str(error)) for position, _, error in seen] == [(4, True), (17, True)]
        np.testing.assert_array_equal(seen[1][1], self.x[17])

    def test_one_of_several_inputs(self, two_inputs):
        left, right = np.ones((5, 4), "float32"), np.zeros((5, 4), "float32")
        left[1, 1], right[3, 0] = np.nan, np.inf
        with pytest.warns(UserWarning, match="2 of 5 rows"):
            found = np.concatenate([*OnnxEncoder(two_inputs).encode_iter((left, right), on_error="skip")])
        np.testing.assert_array_equal(found, np.ones((3, 4)))

    def test_their_ids_go_with_them(self, encoder, tmp_path):
        with pytest.warns(UserWarning, match="2 of 25"):
            assert encoder.encode_to(self.x, tmp_path / "x.npz", batch_size=7, on_error="skip") == 23
        with np.load(tmp_path / "x.npz") as file:
            assert file["id"].tolist() == self.good
            np.testing.assert_array_equal(file["embedding"], encoder.encode(self.x[self.good]))

    @pytest.mark.parametrize("kind", ["skip", "function"])
    def test_their_ids_go_with_them_when_a_run_is_resumed(self, encoder, tmp_path, kind):
        parquet = pytest.importorskip("pyarrow.parquet")
        on_error = "skip" if kind == "skip" else lambda *_: None
        path, options = tmp_path / "x.parquet", {"batch_size": 7, "on_error": on_error, "resume": True}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert encoder.encode_to(self.x, path, **options) == 23
        assert [str(warning.message) for warning in caught] == ["2 of 25 inputs are left out: 4, 17."] * (
            kind == "skip"
        )
        table = parquet.read_table(path).to_pylist()
        assert [row["id"] for row in table] == self.good
        np.testing.assert_array_equal([row["embedding"] for row in table], encoder.encode(self.x[self.good]))

    def test_none_left(self, encoder):
        with pytest.raises(InputError, match=r"At least one row must be usable\. Received: 3 of 3 rows are not finite"):
            [*encoder.encode_iter(np.full((3, 6), np.nan), on_error=lambda *_: None)]
