"""The server by its protocols: through real clients of OpenAI's kind, and through plain HTTP."""

import asyncio
import base64
import contextlib
import gc
import io
import json
import shutil
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image

from helpers.servers import running
from keras_tfcl.export import Index, InputError, ModelFileError, OnnxEncoder, export_onnx

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
testclient = pytest.importorskip("fastapi.testclient")
server = pytest.importorskip("keras_tfcl.export.server")
batching = pytest.importorskip("keras_tfcl.export.server.batching")
ServerSettings, create_app = server.ServerSettings, server.create_app

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    import keras

    path = tmp_path_factory.mktemp("dense") / "dense.onnx"
    export_onnx(keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)]), path)
    return OnnxEncoder(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    import keras

    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3, 2), keras.layers.GlobalAveragePooling2D()]
    path = tmp_path_factory.mktemp("photos") / "photos.onnx"
    export_onnx(keras.Sequential([keras.Input((16, 16, 3)), *layers]), path)
    return OnnxEncoder(path)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """An encoder of texts: the mean of the tokens that the mask keeps."""
    import keras

    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: i for i, word in enumerate("[PAD] [UNK] a red green blue cat dog house".split())}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ids = keras.Input((None,), dtype="int32", name="input_ids")
    mask = keras.Input((None,), dtype="int32", name="attention_mask")
    keep = keras.ops.expand_dims(keras.ops.cast(mask, "float32"), 2)
    summed = keras.ops.sum(keras.layers.Embedding(len(vocabulary), 8)(ids) * keep, axis=1)
    path = tmp_path_factory.mktemp("words") / "words.onnx"
    export_onnx(keras.Model([ids, mask], summed), path, tokenizer=tokenizer)
    return OnnxEncoder(path)


def client(encoder, index=None, **settings):
    return testclient.TestClient(create_app(encoder, ServerSettings(**settings), index), raise_server_exceptions=False)


def jpeg(seed=0):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), "uint8")).save(buffer, "JPEG")
    return buffer.getvalue()


X = RNG.normal(size=(5, 6)).astype("float32")


def test_embeddings_are_those_of_the_encoder(dense):
    expected = dense.encode(X)
    with client(dense) as http:
        floats = http.post("/v1/embeddings", json={"input": X.tolist(), "model": "dense"}).json()
        coded = http.post("/v1/embeddings", json={"input": X.tolist(), "encoding_format": "base64"}).json()
        one = http.post("/v1/embeddings", json={"input": X[0].tolist()}).json()
    assert [entry["index"] for entry in floats["data"]] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose([entry["embedding"] for entry in floats["data"]], expected, atol=1e-6)
    decoded = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in coded["data"]]
    np.testing.assert_array_equal(decoded, expected)
    assert len(one["data"]) == 1 and floats["usage"]["total_tokens"] == 30


def test_numbers_keep_the_precision_of_the_input(tmp_path):
    value, path = onnx.helper.make_tensor_value_info, tmp_path / "double.onnx"
    shift = onnx.numpy_helper.from_array(np.array(1e8), "shift")
    nodes = [
        onnx.helper.make_node("Sub", ["x", "shift"], ["moved"]),
        onnx.helper.make_node("Cast", ["moved"], ["embedding"], to=onnx.TensorProto.FLOAT),
    ]
    ends = [value("x", onnx.TensorProto.DOUBLE, ("n", 2))], [value("embedding", onnx.TensorProto.FLOAT, ("n", 2))]
    graph = onnx.helper.make_graph(nodes, "by hand", *ends, [shift])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    with client(OnnxEncoder(path)) as http:
        found = http.post("/v1/embeddings", json={"input": [1e8 + 0.5, 1e8 - 0.25]}).json()
        beyond = http.post("/v1/embeddings", json={"input": [1e8, 1e300]})
    assert found["data"][0]["embedding"] == [0.5, -0.25]
    assert beyond.status_code == 422 and "NaN or infinity" in beyond.json()["error"]["message"]


def test_dimensions_are_truncated_and_normalised_again(dense):
    with client(dense) as http:
        found = http.post("/v1/embeddings", json={"input": X.tolist(), "dimensions": 3}).json()
        refused = http.post("/v1/embeddings", json={"input": X.tolist(), "dimensions": 9})
    expected = dense.encode(X)[:, :3]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose([entry["embedding"] for entry in found["data"]], expected, atol=1e-6)
    assert refused.status_code == 422 and "at most 8" in refused.json()["error"]["message"]


def test_images_come_as_files_data_uris_or_base64(photos):
    files = [jpeg(i) for i in range(3)]
    expected = photos.encode(files)
    coded = [base64.b64encode(file).decode() for file in files]
    with client(photos) as http:
        answers = [
            http.post("/v1/embeddings", files=[("file", ("a.jpg", file)) for file in files]),
            http.post("/v1/embeddings", json={"input": coded}),
            http.post("/v1/embeddings", json={"input": [f"data:image/jpeg;base64,{text}" for text in coded]}),
            http.post("/v1/embeddings", json={"input": [base64.encodebytes(file).decode() for file in files]}),
            http.post("/v1/embeddings", json={"input": [f"DATA:;BASE64,{text}" for text in coded]}),
        ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        found = [entry["embedding"] for entry in answer.json()["data"]]
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "options", "status", "message"),
    [
        ("/v1/embeddings", {"json": {"input": []}}, 422, "1 to 2048 inputs"),
        ("/v1/embeddings", {"json": {"input": [[1, 2], [1]]}}, 422, "one shape"),
        ("/v1/embeddings", {"json": {"input": "hello"}}, 422, "neither"),
        ("/v1/embeddings", {"json": {"input": "http://127.0.0.1/a.jpg"}}, 422, "not downloaded"),
        ("/v1/embeddings", {"json": {"input": ["data:text/plain,hello"]}}, 422, "must be in base64"),
        ("/v1/embeddings", {"json": {"input": [base64.b64encode(b"no image").decode()]}}, 422, "Input 0"),
        ("/v1/embeddings", {"json": {"input": [[0.1] * 5]}}, 422, "image"),
        ("/v1/embeddings", {"json": {"input": [None]}}, 422, "input: must be a string, a list of strings"),
        ("/v1/embeddings", {"json": {}}, 422, "input: Field required"),
        ("/v1/embeddings", {"content": b"no JSON"}, 422, "The body: Invalid JSON"),
        ("/v1/embeddings", {"files": {"image": b"x"}}, 422, "in its field `file`. Received: the fields ['image']"),
        ("/v1/embeddings", {"files": {"file": b"x"}}, 422, "none of them"),
        ("/v1/embeddings", {"json": {"input": "x", "model": "other"}}, 404, "does not exist"),
        ("/v1/embeddings", {"json": {"input": "x", "encoding_format": "hex"}}, 422, "encoding_format"),
        ("/v1/embeddings", {"content": b"{"}, 422, "JSON"),
        ("/v1/search", {"json": {"input": "x"}}, 404, "no index"),
        ("/v1/nothing", {}, 405, ""),
    ],
)
def test_bad_requests_get_an_error_in_words(photos, path, options, status, message):
    with client(photos) as http:
        answer = http.post(path, **options)
    assert answer.status_code in (status, 404) and message in answer.json()["error"]["message"], answer.text


def test_limits(dense):
    with client(dense, max_items=2, max_body_bytes=400) as http:
        assert http.post("/v1/embeddings", json={"input": [[0.0] * 6] * 3}).status_code == 422
        large = http.post("/v1/embeddings", json={"input": X.tolist()})
        unannounced = http.post("/v1/embeddings", content=iter([b"x" * 300, b"x" * 300]))
    for answer in (large, unannounced):
        assert answer.status_code == 413 and "400 bytes" in answer.json()["error"]["message"]


def test_a_large_image_is_refused_before_it_is_decoded(photos):
    with client(photos, max_pixels=599) as http:
        refused = http.post("/v1/embeddings", files={"file": jpeg()})
    with client(photos, max_pixels=600) as http:
        assert http.post("/v1/embeddings", files={"file": jpeg()}).status_code == 200
    assert refused.status_code == 422 and "599 pixels" in refused.json()["error"]["message"]


def test_texts_are_embedded_in_their_order_and_tokens_counted(words):
    texts = ["a red cat", "a dog", "dog", "a green house a green house a green house", "a blue dog"]
    with client(words, max_batch_size=2) as http:
        many = http.post("/v1/embeddings", json={"input": texts}).json()
        one = http.post("/v1/embeddings", json={"input": "a red cat"}).json()
        info = http.get("/info").json()
    expected = np.concatenate([words.encode([text]) for text in texts])
    np.testing.assert_allclose([entry["embedding"] for entry in many["data"]], expected, atol=1e-6)
    np.testing.assert_allclose(one["data"][0]["embedding"], expected[0], atol=1e-6)
    assert many["usage"]["total_tokens"] == 18 and one["usage"]["prompt_tokens"] == 3
    assert info["text"] and not info["images"] and "tokenizer" not in info["metadata"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a dog", ""], "input 1, which has none"),
        ("a " * 9, "8 tokens. Received: 9"),
        ([1] * 9, "8 tokens. Received: 9"),
        ([[1], []], "lists of token numbers"),
        ([[1], [1.5]], "lists of token numbers"),
        ([[1], [1 << 63]], "lists of token numbers"),
        ([[1], [-1]], "lists of token numbers"),
        ([[1], [99]], "that the model can embed"),
    ],
)
def test_texts_that_cannot_be_embedded(words, given, message):
    with client(words, max_tokens=8) as http:
        answer = http.post("/v1/embeddings", json={"input": given})
    assert answer.status_code == 422 and message in str(answer.json()), answer.text


def test_lists_of_token_numbers_are_padded_as_texts_are(words):
    """As OpenAI's protocol allows; langchain sends them. A list of numbers is one input."""
    texts = ["a red cat", "dog"]
    tokens = [ids for ids, _ in words.text_rule.tokenize(texts)]
    with client(words) as http:
        many = http.post("/v1/embeddings", json={"input": tokens}).json()
        one = http.post("/v1/embeddings", json={"input": tokens[0]}).json()
        file = http.post("/v1/embeddings", files={"file": b"a red cat"})
    expected = words.encode(texts)
    np.testing.assert_allclose([entry["embedding"] for entry in many["data"]], expected, atol=1e-6)
    np.testing.assert_allclose(one["data"][0]["embedding"], expected[0], atol=1e-6)
    assert many["usage"]["total_tokens"] == 4
    assert file.status_code == 422 and "takes texts" in file.json()["error"]["message"]


def test_tensors_of_tokens_may_be_as_long_as_texts(words):
    def tensors(length):
        return [
            {"name": spec.name, "shape": [1, length], "datatype": "INT32", "data": [1] * length}
            for spec in words.inputs
        ]

    with client(words, max_tokens=3) as http:
        answers = [http.post("/v2/models/words/infer", json={"inputs": tensors(length)}) for length in (3, 4)]
    assert [answer.status_code for answer in answers] == [200, 422]
    assert "at most 3 tokens. Received: 4" in answers[1].json()["error"]


def test_texts_are_searched_for(words):
    index, texts = Index(words), ["a red cat", "a blue dog", "a green house"]
    index.add(words.encode(texts), metadata=[{"text": text} for text in texts])
    with client(words, index) as http:
        found = http.post("/v1/search", json={"input": ["a blue dog", "a red cat"], "k": 1}).json()["results"]
    assert [hits[0]["metadata"]["text"] for hits in found] == ["a blue dog", "a red cat"]


def test_a_key_is_asked_for_everywhere_but_at_health(dense):
    with client(dense, api_key="secret") as http:
        assert http.get("/health/ready").status_code == 200
        assert http.get("/").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            refused = http.post("/v1/embeddings", json={"input": [0.0] * 6}, headers=headers)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        good = http.post("/v1/embeddings", json={"input": [1.0] * 6}, headers={"Authorization": "Bearer secret"})
    assert good.status_code == 200


def test_the_open_inference_protocol(dense):
    tensor = {"name": "features", "shape": [5, 6], "datatype": "FP32", "data": X.ravel().tolist()}
    with client(dense) as http:
        about = http.get("/v2/models/dense").json()
        found = http.post("/v2/models/dense/infer", json={"id": "7", "inputs": [tensor]}).json()
        head = b'{"inputs":[{"name":"features","shape":[5,6],"datatype":"FP32","parameters":{"binary_data_size":120}}],'
        head += b'"outputs":[{"name":"embedding","parameters":{"binary_data":true}}]}'
        binary = http.post(
            "/v2/models/dense/infer",
            content=head + X.tobytes(),
            headers={"Inference-Header-Content-Length": str(len(head))},
        )
        wrong = http.post("/v2/models/dense/infer", json={"inputs": [tensor | {"shape": [4, 6]}]})
        assert http.get("/v2/models/other").status_code == 404
        assert http.get("/v2/models/dense/versions/1").json() == about
        assert http.get("/v2/models/dense/versions/2").status_code == 404
        untrue = [
            http.post("/v2/models/dense/infer", json={"inputs": [tensor | kind]})
            for kind in ({"datatype": "INT8", "data": [300] * 30}, {"datatype": "INT32"}, {"data": ["1"] * 30})
        ]
        other = http.post("/v2/models/dense/infer", json={"inputs": [tensor | {"name": "other"}]})
        asked = [{"name": "embedding"}, {"name": "logits"}]
        no_output = http.post("/v2/models/dense/infer", json={"inputs": [tensor], "outputs": asked})
        unknown = http.post("/v2/models/dense/infer", json={"inputs": [tensor | {"shape": [-1, 6]}]})
        twice = http.post("/v2/models/dense/infer", json={"inputs": [tensor, tensor]})
        longer = http.post(
            "/v2/models/dense/infer",
            content=head + X.tobytes() + b"more",
            headers={"Inference-Header-Content-Length": str(len(head))},
        )
    assert unknown.status_code == 400 and "inputs.0.shape.0" in unknown.json()["error"]
    assert no_output.status_code == 400 and "has one output" in no_output.json()["error"]
    assert longer.status_code == 400 and "4 bytes more" in longer.json()["error"]
    assert other.status_code == 422 and "must be named ['features']" in other.json()["error"]
    assert twice.status_code == 400 and "may occur once" in twice.json()["error"]
    assert about["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 6]}]
    expected = dense.encode(X)
    assert found["id"] == "7"
    np.testing.assert_allclose(np.reshape(found["outputs"][0]["data"], (5, 8)), expected, atol=1e-6)
    length = int(binary.headers["inference-header-content-length"])
    np.testing.assert_array_equal(np.frombuffer(binary.content[length:], "<f4").reshape(5, 8), expected)
    assert all(answer.status_code == 422 and "another type" in answer.json()["error"] for answer in untrue)
    assert wrong.status_code == 422 and "as many values as its shape" in wrong.json()["error"]


def test_search_finds_what_the_index_holds(photos, tmp_path):
    names = ["0.jpg", "1.jpg", "a #2? 50%/Grün.jpg", "3.jpg"]
    (tmp_path / names[2]).parent.mkdir()
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(jpeg(i))
    index = Index(photos)
    index.add(photos.encode([tmp_path / name for name in names]), names, [{"path": name} for name in names])
    with client(photos, index, images=tmp_path) as http:
        found = http.post("/v1/search", files={"file": jpeg(2)}, data={"k": "2"}).json()["results"][0]
        other = http.post("/v1/search", files={"file": jpeg(2)}, data={"model": "other"})
        picture = http.get(found[0]["image"])
        outside = http.get("/v1/images/../../etc/passwd")
        outside_coded = http.get("/v1/images/%2e%2e/%2e%2e/etc/passwd")
    assert other.status_code == 404 and "'other' does not exist" in other.json()["error"]["message"]
    assert found[0]["id"] == names[2] and found[0]["score"] == pytest.approx(1, abs=1e-5) and len(found) == 2
    assert picture.status_code == 200 and Image.open(io.BytesIO(picture.content)).size == (30, 20)
    assert outside.status_code == outside_coded.status_code == 404


@pytest.mark.parametrize("name", ["%00", "a" * 300, "a/" * 3000, "circle", "folder", "outside", "text.jpg", "%ff", ""])
def test_names_that_are_no_images(dense, tmp_path, name):
    shown = tmp_path / "shown"
    (shown / "folder").mkdir(parents=True)
    (shown / "circle").symlink_to(shown / "circle")
    (tmp_path / "outside.jpg").write_bytes(jpeg())
    (shown / "outside").symlink_to(tmp_path / "outside.jpg")
    (shown / "text.jpg").write_text("text")
    with client(dense, images=shown) as http:
        assert http.get(f"/v1/images/{name}").status_code == 404


def test_many_queries_in_one_request(dense):
    index, rows = Index(dense), RNG.normal(size=(150, 6)).astype("float32")
    index.add(dense.encode(rows))
    with client(dense, index) as http:
        results = http.post("/v1/search", json={"input": rows.tolist(), "k": 1}).json()["results"]
    assert [hits[0]["id"] for hits in results] == [*range(150)]


def test_an_index_of_another_encoder_is_refused(dense, photos):
    with pytest.raises(InputError, match="only with the encoder that filled it"):
        create_app(dense, ServerSettings(), Index(photos))


def test_health_metrics_and_info(dense):
    with client(dense) as http:
        assert http.get("/health/live").json() == {"status": "live"}
        ready = http.get("/health/ready")
        assert ready.status_code == 200 and ready.json()["provider"] == dense.providers[0]
        http.post("/v1/embeddings", json={"input": X.tolist()})
        text = http.get("/metrics").text
        info = http.get("/info").json()
        assert http.get("/v1/models/dense").json() == http.get("/v1/models").json()["data"][0]
        assert http.get("/v1/models/other").status_code == 404
        assert http.get("/openapi.json").status_code == 200
    assert 'keras_tfcl_requests_total{route="/v1/embeddings",status="200"} 1.0' in text
    assert "keras_tfcl_batch_size_sum 5.0" in text
    assert info["inputs"] == [{"name": "features", "dtype": "float32", "shape": [None, 6]}]
    assert info["dimension"] == 8 and info["providers"]["used"] == [*dense.providers]


@pytest.mark.parametrize(
    ("scale", "quantized", "served"), [(1, 0, True), (0.01, 0, False), (0.01, 1, True), (1, 1, False)]
)
def test_only_a_model_that_gives_the_recorded_embeddings_is_served(dense, tmp_path, scale, quantized, served):
    """Exactly; or, of a quantized model, nearly, because int8 rounds otherwise on another processor."""
    model = onnx.load(dense.path)
    metadata = json.loads(model.metadata_props[0].value)
    del metadata["metadata_hash"]
    for batch in metadata["probes"] if scale < 1 or quantized else ():
        embeddings = np.frombuffer(base64.b64decode(batch["embeddings"]), "<f4").copy()
        embeddings += scale * np.random.default_rng(0).normal(size=embeddings.shape).astype("<f4")
        batch["embeddings"] = base64.b64encode(embeddings.tobytes()).decode()
    if quantized:
        metadata["quantization"] = {"mode": "dynamic"}
    onnx.helper.set_model_props(model, {"keras_tfcl": json.dumps(metadata)})
    onnx.save(model, tmp_path / "encoder.onnx")
    with contextlib.nullcontext() if served else pytest.raises(ModelFileError, match="before it serves"):
        create_app(OnnxEncoder(tmp_path / "encoder.onnx"), ServerSettings(max_batch_size=4))


@pytest.mark.parametrize(("error", "status"), [(ImportError("needs the package `PIL`"), 501), (KeyError("x"), 500)])
def test_what_nobody_expected_is_answered_in_json_and_counted(photos, monkeypatch, error, status):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(OnnxEncoder, "read_image", fail)
    with client(photos) as http:
        answer = http.post("/v1/embeddings", files={"file": jpeg()})
        text = http.get("/metrics").text
    assert answer.status_code == status
    assert ("`PIL`" if status == 501 else "KeyError") in answer.json()["error"]["message"]
    assert f'keras_tfcl_requests_total{{route="/v1/embeddings",status="{status}"}} 1.0' in text


def test_a_run_without_memory_fails_alone(dense, monkeypatch):
    def fail(*arguments):
        monkeypatch.undo()
        raise MemoryError

    with client(dense, deadline_s=2) as http:
        monkeypatch.setattr(batching, "np", SimpleNamespace(concatenate=fail))
        answers = [http.post("/v1/embeddings", json={"input": X.tolist()}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [500, 200]
    assert "MemoryError" in answers[0].json()["error"]["message"]


class Slow:
    """An encoder that waits for a signal, and refuses rows that begin with a 9."""

    def __init__(self, encoder):
        self._encoder, self.go, self.runs = encoder, threading.Event(), []

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode(self, rows, batch_size):
        if isinstance(rows, dict):  # the golden inputs of the self-test
            return self._encoder.encode(rows)
        self.runs.append(len(rows))
        self.go.wait(10)
        if (rows[:, 0] == 9).any():
            raise InputError("a row begins with 9")
        return self._encoder.encode(rows)


async def _posts(app, bodies, before_going=None, slow=None):
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            tasks = []
            for body in bodies:
                tasks.append(asyncio.create_task(http.post("/v1/embeddings", json=body)))
                await asyncio.sleep(0.05)
            if before_going is not None:
                await before_going(tasks)
            slow.go.set()
            return await asyncio.gather(*tasks, return_exceptions=True)


def test_rows_gather_while_a_run_is_on_its_way_and_bad_rows_fail_alone(dense):
    slow = Slow(dense)
    app = create_app(slow, ServerSettings())
    rows = [[float(i)] * 6 for i in (1, 2, 9, 4)]
    answers = asyncio.run(_posts(app, [{"input": row} for row in rows], slow=slow))
    assert [answer.status_code for answer in answers] == [200, 200, 422, 200]
    assert slow.runs == [1, 3, 1, 1, 1]  # one at once, the rest together, then each alone
    for row, answer in zip(rows, answers, strict=True):
        if answer.status_code == 200:
            np.testing.assert_allclose(answer.json()["data"][0]["embedding"], dense.encode([row])[0], atol=1e-6)


@pytest.mark.parametrize("name", ["deadline_s", "batch_wait_ms", "drain_s"])
def test_a_time_without_an_end_is_refused(name):
    with pytest.raises(ValueError, match="finite"):
        ServerSettings(**{name: float("inf")})


def test_a_full_queue_answers_429_and_a_late_answer_is_504(dense, caplog):
    slow = Slow(dense)
    app = create_app(slow, ServerSettings(max_queue=2, deadline_s=0.5))

    async def wait(tasks):
        await asyncio.sleep(0.7)

    bodies = [{"input": [1.0] * 6}, {"input": [[2.0] * 6] * 2}, {"input": [3.0] * 6}]
    answers = asyncio.run(_posts(app, bodies, wait, slow))
    assert [answer.status_code for answer in answers] == [504, 504, 429]
    assert answers[2].headers["retry-after"] == "1"
    assert sum(slow.runs) == 1  # what came too late was dropped before it ran
    gc.collect()
    assert not caplog.records  # such as of an exception that was never retrieved


def test_a_full_queue_answers_before_images_are_decoded(photos):
    slow = Slow(photos)
    app = create_app(slow, ServerSettings(max_queue=1))
    image = base64.b64encode(jpeg()).decode()
    answers = asyncio.run(_posts(app, [{"input": text} for text in (image, image, "no image")], slow=slow))
    assert [answer.status_code for answer in answers] == [200, 200, 429]


def test_nothing_is_decoded_after_the_deadline(photos, monkeypatch):
    decoded = []
    monkeypatch.setattr(photos, "read_image", lambda *arguments: decoded.append(time.sleep(0.01)))
    with client(photos, deadline_s=0.3) as http:
        assert http.post("/v1/embeddings", files=[("file", jpeg())] * 200).status_code == 504
        time.sleep(1)
    assert len(decoded) < 90


def test_the_deadline_covers_all_of_a_request(photos, monkeypatch):
    index = Index(photos)
    index.add(photos.encode([jpeg()]))
    with client(photos, index, deadline_s=0.3) as http:
        for place, name in ((photos, "read_image"), (index, "search")):
            with monkeypatch.context() as patch:
                patch.setattr(place, name, lambda *arguments: time.sleep(1))
                assert http.post("/v1/search", files={"file": jpeg()}).status_code == 504
    with running(create_app(photos, ServerSettings(deadline_s=0.3))) as address:
        with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=20) as half_sent:
            half_sent.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
            assert half_sent.makefile("rb").readline() == b"HTTP/1.1 504 Gateway Timeout\r\n"


def test_requests_of_clients_that_went_are_dropped(dense):
    slow = Slow(dense)
    app = create_app(slow, ServerSettings())

    async def leave(tasks):
        tasks[1].cancel()
        await asyncio.sleep(0.1)

    asyncio.run(_posts(app, [{"input": [1.0] * 6}, {"input": [2.0] * 6}], leave, slow))
    assert sum(slow.runs) == 1


def test_a_long_request_is_split(dense):
    with client(dense, max_batch_size=2) as http:
        found = http.post("/v1/embeddings", json={"input": X.tolist()}).json()
        text = http.get("/metrics").text
    np.testing.assert_allclose([entry["embedding"] for entry in found["data"]], dense.encode(X), atol=1e-6)
    assert "keras_tfcl_batch_size_count 3.0" in text


def test_openai_s_own_client(dense):
    """It asks for base64 unless it is told otherwise."""
    openai = pytest.importorskip("openai")
    with running(create_app(dense, ServerSettings(api_key="k"))) as address:
        with openai.OpenAI(api_key="k", base_url=f"{address}/v1") as caller:
            found = caller.embeddings.create(input=X.tolist(), model="dense")
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                caller.embeddings.create(input=X.tolist(), model="other")
    np.testing.assert_array_equal(np.array([entry.embedding for entry in found.data], "float32"), dense.encode(X))


def test_clients_that_go_away_and_half_sent_bodies_do_no_harm(dense, caplog):
    with running(create_app(dense, ServerSettings())) as address:
        port = int(address.rsplit(":", 1)[1])
        for body in (b"", b'{"input": [1', b"not json"):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n" + body)
        assert httpx.get(f"{address}/health/ready").status_code == 200
        found = httpx.post(f"{address}/v1/embeddings", json={"input": X.tolist()})
        assert found.status_code == 200
        text = httpx.get(f"{address}/metrics").text
    assert 'route="/v1/embeddings",status="499"} 3.0' in text and 'status="500"' not in text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_time_is_not_lost_without_a_run(dense):
    """An idle server answers at once, however long `deadline_s` is."""
    with client(dense) as http:
        http.post("/v1/embeddings", json={"input": X.tolist()})
        started = time.perf_counter()
        http.post("/v1/embeddings", json={"input": X.tolist()})
    assert time.perf_counter() - started < 1


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser")
def test_the_page_searches_by_an_image_and_says_what_is_wrong(photos, tmp_path):
    """In a real browser, with a key, by the keyboard, on a narrow screen; nothing is loaded from elsewhere."""
    playwright = pytest.importorskip("playwright.sync_api")
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    names = [f"{i}.jpg" for i in range(3)]
    index = Index(photos)
    index.add(photos.encode([tmp_path / name for name in names]), names, [{"path": name} for name in names])
    (tmp_path / "2.jpg").unlink()  # its entry is found and has no thumbnail
    app = create_app(photos, ServerSettings(api_key="k", images=tmp_path), index)
    with running(app) as address, playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 380, "height": 700})
        problems, asked = [], []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#message.error")
        assert "needs a key" in page.text_content("#message")
        page.goto(f"{address}/?again#key=k", wait_until="networkidle")
        assert page.text_content("#about") == "photos, 3 entries"
        with page.expect_file_chooser() as chooser:
            page.locator("#drop").press("Enter")
        chooser.value.set_files(tmp_path / "1.jpg")
        page.wait_for_selector("#results li")
        assert page.text_content("#results li").split() == ["1.000", "1.jpg"]
        until = time.monotonic() + 20  # not by wait_for_function, whose script the page's policy refuses
        while page.evaluate("document.querySelector('#results img').naturalWidth") != 30 and time.monotonic() < until:
            page.wait_for_timeout(20)
        assert page.evaluate("document.querySelector('#results img').naturalWidth") == 30
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
        assert page.locator("#results li").count() == 3 and page.locator("#results img").count() == 2
        page.locator("#results button").nth(1).press("Enter")  # search for this one
        page.wait_for_selector("#results li:first-child [title='0.jpg']")
        (tmp_path / "broken.jpg").write_bytes(b"no image")
        page.set_input_files("#file", tmp_path / "broken.jpg")
        page.wait_for_selector("#message.error")
        assert "Input 0" in page.text_content("#message")
        browser.close()
    assert problems == [] and all(url.startswith((address, "blob:")) for url in asked)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_searches_by_a_text(words):
    playwright = pytest.importorskip("playwright.sync_api")
    index, texts = Index(words), ["a red cat", "a blue dog", "a green house"]
    index.add(words.encode(texts), metadata=[{"text": text} for text in texts])
    with running(create_app(words, ServerSettings(), index)) as address, playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 380, "height": 700})
        page.goto(address)
        page.wait_for_selector("#text", state="visible")
        page.wait_for_selector("#drop", state="hidden")
        page.fill("#sought", "a blue dog")
        page.keyboard.press("Enter")
        page.wait_for_selector("#results li")
        assert page.text_content("#results li p") == "a blue dog"
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
        browser.close()


@pytest.mark.parametrize("binary", [False, True])
def test_triton_s_own_client(dense, binary):
    tritonhttp = pytest.importorskip("tritonclient.http")
    with running(create_app(dense, ServerSettings())) as address:
        caller = tritonhttp.InferenceServerClient(address.removeprefix("http://"))
        assert caller.is_server_live() and caller.is_server_ready() and caller.is_model_ready("dense", "1")
        rows = tritonhttp.InferInput("features", [5, 6], "FP32")
        rows.set_data_from_numpy(X, binary_data=binary)
        wanted = tritonhttp.InferRequestedOutput("embedding", binary_data=binary)
        found = caller.infer("dense", [rows], outputs=[wanted]).as_numpy("embedding")
        caller.close()
    np.testing.assert_allclose(found, dense.encode(X), atol=0 if binary else 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_no_request_is_answered_by_500(dense, mode):
    """Neither what the description allows nor what it forbids. An unhandled exception would be a 500."""
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    kind = getattr(schemathesis.GenerationMode, mode)
    index = Index(dense)
    index.add(dense.encode(X))
    app = create_app(dense, ServerSettings(), index)
    with running(app) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()

            @hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=[*hypothesis.HealthCheck])
            @hypothesis.given(case=operation.as_strategy(generation_mode=kind))
            def answered(case):
                assert case.call().status_code < 500

            unasked = hypothesis.errors.Unsatisfiable if mode == "NEGATIVE" else ()  # a route that takes nothing
            with contextlib.suppress(unasked):
                answered()
