"""The server with many, slow and hostile clients: all are answered, and nobody suffers for another."""

import asyncio
import base64
import json
import random
import socket
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from helpers.servers import running
from keras_tfcl.export import OnnxEncoder

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
server = pytest.importorskip("keras_tfcl.export.server")

MATRIX = np.random.default_rng(0).normal(size=(6, 512)).astype("float32")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """embedding = features @ MATRIX"""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "matrix"], ["embedding"])],
        "by hand",
        [value("features", TensorProto.FLOAT, ("batch", 6))],
        [value("embedding", TensorProto.FLOAT, ("batch", 512))],
        [onnx.numpy_helper.from_array(MATRIX, "matrix")],
    )
    path = tmp_path_factory.mktemp("stress") / "dense.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return OnnxEncoder(path, threads=1)


@pytest.fixture
def address(encoder):
    with running(server.create_app(encoder, server.ServerSettings())) as address:
        yield address


def ask(address, x):
    answer = httpx.post(f"{address}/v1/embeddings", json={"input": x.tolist()}, timeout=30)
    assert answer.status_code == 200
    np.testing.assert_allclose(
        [entry["embedding"] for entry in answer.json()["data"]], x @ MATRIX, rtol=1e-4, atol=1e-5
    )


def test_64_clients_get_the_vectors_of_the_encoder_bit_for_bit(encoder, address):
    x = np.random.default_rng(1).normal(size=(64, 5, 3, 6)).astype("float32")

    async def client(http, number):
        for rows in x[number]:
            body = {"input": rows.tolist(), "encoding_format": "base64"}
            answer = await http.post(f"{address}/v1/embeddings", json=body)
            assert answer.status_code == 200
            found = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer.json()["data"]]
            np.testing.assert_array_equal(found, [encoder.encode(row[None])[0] for row in rows])

    async def all_clients():
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=64)) as http:
            await asyncio.gather(*(client(http, number) for number in range(64)))

    asyncio.run(all_clients())


def test_readers_that_do_not_read_hold_nobody_up(encoder, address):
    port = int(address.rsplit(":", 1)[1])
    x = np.random.default_rng(2).normal(size=(200, 6)).astype("float32")
    body = json.dumps({"input": x.tolist()}).encode()
    request = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    for connection in slow:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.sendall(request + body)
    time.sleep(0.5)
    ask(address, x[:2])
    for connection in slow:  # and in the end they get all of it
        connection.settimeout(60)
        content = b"".join(iter(lambda: connection.recv(1 << 16), b""))  # noqa: B023
        connection.close()
        assert len(json.loads(content.partition(b"\r\n\r\n")[2])["data"]) == 200


def test_bodies_that_come_byte_by_byte_hold_nobody_up(address):
    port = int(address.rsplit(":", 1)[1])
    body = json.dumps({"input": [1.0] * 6}).encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(30)
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        for byte in head + body[:-1]:
            connection.sendall(bytes([byte]))
        ask(address, np.ones((2, 6), "float32"))
        connection.sendall(body[-1:])
        assert connection.recv(12) == b"HTTP/1.1 200"


ROUTES = [
    "/v1/embeddings",
    "/v1/search",
    "/v2/models/dense/infer",
    "/v1/models",
    "/nothing",
    "/v1/images/..%2f..",
    "//",
]


def bad_request(rng):
    """Anything that a client could get wrong, from a wrong value to noise."""
    good = json.dumps({"input": [[rng.uniform(-1, 1) for _ in range(6)]], "k": 3}).encode()
    values = [
        None,
        [],
        [[]],
        {},
        "x",
        "a" * 500,
        [1e400, 1],
        [[1] * 5],
        [[None] * 6],
        [["a"] * 6],
        [[1] * 6, [1]],
        -1,
        True,
    ]
    tensor = {"name": "features", "shape": [rng.choice([-1, 0, 1, 10**9]), 6], "datatype": rng.choice(["FP32", "X", 5])}
    bodies = [
        json.dumps({"input": rng.choice(values), "dimensions": rng.choice([None, 0, -5, 10**9, "x"])}).encode(),
        json.dumps({"inputs": [tensor | {"data": rng.choice(values)}]}).encode(),
        json.dumps(
            {"inputs": [tensor | {"parameters": {"binary_data_size": rng.choice([-1, 10**12, "a", None])}}]}
        ).encode(),
        good[: rng.randrange(len(good))],
        rng.randbytes(rng.randrange(200)),
        b"[" * 10_000,
        json.dumps({"input": "data:image/png;base64," + base64.b64encode(rng.randbytes(20)).decode()}).encode(),
    ]
    kinds = ["application/json", "multipart/form-data", "multipart/form-data; boundary=x", "text/plain", "\xff", ""]
    headers = {
        "Content-Type": rng.choice(kinds),
        "Inference-Header-Content-Length": rng.choice(["", "0", "-1", "x", "9" * 30]),
    }
    if rng.random() < 0.5:
        del headers["Inference-Header-Content-Length"]
    return rng.choice(["POST", "POST", "POST", "GET", "PUT", "DELETE"]), rng.choice(ROUTES), rng.choice(bodies), headers


def send_bad_requests(address, count, seed):
    rng, statuses = random.Random(seed), []
    with httpx.Client(timeout=30) as http:
        for _ in range(count):
            method, route, body, headers = bad_request(rng)
            encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            answer = http.request(method, address + route, content=body, headers=encoded)
            statuses.append(answer.status_code)
            if answer.status_code >= 400 and method != "HEAD":
                assert "error" in answer.json() or "detail" in answer.json(), answer.text
            assert answer.status_code < 500, (method, route, body[:200], headers, answer.text)
    return statuses


def test_bad_requests_are_refused_in_words(address):
    statuses = send_bad_requests(address, 300, seed=0)
    assert {400, 404, 405, 422} <= set(statuses)
    ask(address, np.ones((2, 6), "float32"))


def resident():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.slow
def test_10_000_bad_requests_leave_no_trace(address):
    send_bad_requests(address, 1000, seed=1)
    before, answers = resident(), []
    threads = [
        threading.Thread(target=lambda seed=seed: answers.extend(send_bad_requests(address, 2500, seed)))
        for seed in range(2, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 10_000
    assert resident() < before + 50
    ask(address, np.ones((2, 6), "float32"))
