"""`keras-tfcl index` and `keras-tfcl serve`, as processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_tfcl.atomic_write import locked_file
from keras_tfcl.cli import main
from keras_tfcl.export import Index, OnnxEncoder, export_onnx

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

COMMAND = str(Path(sys.executable).with_name("keras-tfcl"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """An encoder of images, and a folder of twelve."""
    import keras

    folder = tmp_path_factory.mktemp("photos")
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3, 2), keras.layers.GlobalAveragePooling2D()]
    export_onnx(keras.Sequential([keras.Input((16, 16, 3)), *layers]), folder / "encoder.onnx")
    rng = np.random.default_rng(0)
    for i in range(12):
        path = folder / "images" / ("a" if i < 6 else "b") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), "uint8")).save(path)
    return folder


def run(*arguments):
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_an_index_is_built_grown_and_searched(photos, tmp_path):
    encoder, images, out = photos / "encoder.onnx", photos / "images", tmp_path / "photos.index"
    built = run("index", "build", encoder, images / "a", "-o", out, "--json")
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["vectors"] == 6
    (images / "b" / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (20, 24)).save(images / "b" / "black.png")  # its embedding is zero
    assert run("index", "add", encoder, out, images / "b").returncode == 1
    added = run("index", "add", encoder, out, images / "b", "--on-error", "skip")
    assert added.returncode == 0 and "12 vectors of length 8, 2 skipped" in added.stdout
    assert [line.partition(":")[0] for line in added.stderr.splitlines()] == ["skipped"] * 2
    assert all(name in added.stderr for name in ("broken.png", "black.png"))
    again = run("index", "add", encoder, out, images / "b" / "7.png")
    assert again.returncode == 0 and "12 vectors of length 8, 1 replaced" in again.stdout
    (images / "b" / "broken.png").unlink()
    refused = run("index", "build", encoder, images / "b", "-o", tmp_path / "none.index")
    assert refused.returncode == 1 and "black.png" in refused.stderr and not (tmp_path / "none.index").exists()
    again = run("index", "build", encoder, images / "b", "-o", tmp_path / "b.index", "--on-error", "skip", "--json")
    assert json.loads(again.stdout)["skipped"] == ["black.png"] and json.loads(again.stdout)["vectors"] == 6
    (images / "b" / "black.png").unlink()
    found = run("index", "search", encoder, out, images / "b" / "7.png", "-k", 2, "--json")
    missing = run("index", "search", encoder, out, tmp_path / "missing.png")
    assert missing.returncode == 1 and "missing.png" in missing.stderr
    hits = json.loads(found.stdout)["results"][0]["hits"]
    assert hits[0]["id"] == "7.png" and hits[0]["score"] == pytest.approx(1, abs=1e-5) and len(hits) == 2


def test_what_an_index_cannot_hold_is_said_before_the_work(photos, tmp_path):
    broken = os.fsencode(tmp_path) + b"/caf\xe9.png"  # a name in Latin-1
    Path(os.fsdecode(broken)).write_bytes((photos / "images" / "a" / "0.png").read_bytes())
    refused = run("index", "build", photos / "encoder.onnx", tmp_path, "-o", tmp_path / "x.index")
    assert refused.returncode == 1 and "`ids` must be Unicode. Received: 'caf" in refused.stderr
    refused = run("index", "build", photos / "encoder.onnx", tmp_path, "-o", tmp_path / "nowhere" / "x.index")
    assert refused.returncode == 1 and "The folder of a file to write must exist" in refused.stderr


def test_ids_are_relative_to_the_folder_that_the_server_shows(photos, tmp_path):
    encoder, images, out = photos / "encoder.onnx", photos / "images", tmp_path / "photos.index"
    assert run("index", "build", encoder, images / "a", "-o", out, "--root", images).returncode == 0
    subfolder = os.path.relpath(images / "b")  # however it is spelt
    assert run("index", "add", encoder, out, subfolder, "--root", images / "a" / "..").returncode == 0
    assert [*Index.load(out)._positions] == sorted(f"{'a' if i < 6 else 'b'}/{i}.png" for i in range(12))
    refused = run("index", "add", encoder, out, images / "b", "--root", images / "a")
    assert refused.returncode == 1 and "Images must lie in the folder of --root" in refused.stderr


def test_no_rows_make_an_empty_index(photos, tmp_path):
    np.save(tmp_path / "none.npy", np.empty((0, 16, 16, 3), "float32"))
    built = run("index", "build", photos / "encoder.onnx", tmp_path / "none.npy", "-o", tmp_path / "x.index")
    assert built.returncode == 0 and "0 vectors" in built.stdout and len(Index.load(tmp_path / "x.index")) == 0


def test_additions_by_two_processes_at_once_are_both_kept(photos, tmp_path):
    encoder, images, out = photos / "encoder.onnx", photos / "images", tmp_path / "photos.index"
    assert run("index", "build", encoder, images / "a" / "0.png", "-o", out).returncode == 0
    command = [COMMAND, "index", "add", str(encoder), str(out)]
    groups = [[str(images / "a" / f"{i}.png") for i in pair] for pair in ((1, 2), (3, 4), (5,))]
    processes = [subprocess.Popen([*command, *group], stdout=subprocess.DEVNULL) for group in groups]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert all(f"{i}.png" in Index.load(out) for i in range(6))


def test_an_index_is_built_while_nobody_adds_to_the_older_one(photos, tmp_path, monkeypatch):
    out, save = tmp_path / "photos.index", Index.save

    def look_then_save(index, path):
        with pytest.raises(BlockingIOError), locked_file(out, wait=False):
            pass
        save(index, path)

    command = ["index", "build", str(photos / "encoder.onnx"), str(photos / "images"), "-o", str(out)]
    assert main(command) == 0
    monkeypatch.setattr(Index, "save", look_then_save)
    assert main(command) == 0 and len(Index.load(out)) == 12


def test_images_of_two_folders_may_not_have_one_name(photos, tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / name / "1.png")
    done = run("index", "build", photos / "encoder.onnx", tmp_path / "cats", tmp_path / "dogs", "-o", tmp_path / "x")
    assert done.returncode == 1 and "cats/1.png and" in done.stderr and "folder that holds both" in done.stderr


def serving(*arguments, **env):
    process = subprocess.Popen(
        [COMMAND, "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    line = process.stdout.readline()
    assert line.startswith("Serving on http://127.0.0.1:"), line + process.stderr.read()
    return process, line.split()[-1]


def test_a_server_answers_and_a_signal_loses_no_request_that_it_accepted(photos):
    expected = OnnxEncoder(photos / "encoder.onnx").encode([photos / "images" / "a" / "0.png"])[0]
    content = (photos / "images" / "a" / "0.png").read_bytes()
    process, address = serving(photos / "encoder.onnx", "--drain", "3")
    with process:
        answers, stop = [], threading.Event()

        def ask():
            while not stop.is_set():
                answers.append(httpx.post(f"{address}/v1/embeddings", files={"file": content}, timeout=20))

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for thread in clients:
            thread.start()
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        while (ready := httpx.get(f"{address}/health/ready")).status_code != 503:
            time.sleep(0.01)
        assert ready.json()["status"] == "stopping"
        before = len(answers)
        time.sleep(0.3)
        assert len(answers) > before  # it still answers while it drains
        stop.set()  # as a load balancer does that has seen 503
        for thread in clients:
            thread.join(30)
        process.wait(20)
        assert process.stderr.read() == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health/live")
    for answer in answers:
        assert answer.status_code == 200
        np.testing.assert_allclose(answer.json()["data"][0]["embedding"], expected, atol=1e-6)


def test_the_key_and_the_limits_come_from_the_environment(photos):
    env = {"API_KEY": "secret", "MAX_BATCH_SIZE": "2", "DEADLINE_S": "1"}
    process, address = serving(photos / "encoder.onnx", **{f"KERAS_TFCL_{name}": value for name, value in env.items()})
    content = (photos / "images" / "a" / "0.png").read_bytes()
    with process:
        assert httpx.get(f"{address}/info").status_code == 401
        with httpx.Client(headers={"Authorization": "Bearer secret"}, base_url=address) as http:
            assert http.get("/info").status_code == 200
            assert http.post("/v1/embeddings", files=[("file", content)] * 5).status_code == 200
            assert "keras_tfcl_batch_size_count 3.0" in http.get("/metrics").text
        with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))) as half_sent:
            head = (
                "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 9\r\n\r\n{"
            )
            half_sent.sendall(head.encode())
            time.sleep(0.5)
            process.terminate()
            process.wait(20)  # the deadline ends it


def test_the_server_loads_no_tensorflow(photos):
    code = (
        "import sys\nfrom keras_tfcl.export import OnnxEncoder\nfrom keras_tfcl.export.server import create_app\n"
        f"create_app(OnnxEncoder({str(photos / 'encoder.onnx')!r}))\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    env = {**os.environ, "KERAS_TFCL_ON_DEMAND": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr


def test_rows_with_nan_are_skipped_and_the_others_keep_their_numbers(tmp_path):
    import keras

    encoder = tmp_path / "encoder.onnx"
    export_onnx(keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)]), encoder)
    x = np.random.default_rng(0).normal(size=(9, 6)).astype("float32")
    x[3, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    assert run("embed", encoder, tmp_path / "x.npy", "-o", tmp_path / "x.npz").returncode == 1
    done = run("embed", encoder, tmp_path / "x.npy", "-o", tmp_path / "x.npz", "--on-error", "skip", "--json")
    assert json.loads(done.stdout)["skipped"] == ["3"] and "NaN or infinity in row 3" in done.stderr
    for verb, first in (("build", 0), ("add", 9)):
        where = ["-o", tmp_path / "x.index"] if verb == "build" else []
        given = [encoder, *([] if verb == "build" else [tmp_path / "x.index"]), tmp_path / "x.npy"]
        assert run("index", verb, *given, *where, "--on-error", "skip").returncode == 0
        index = Index.load(tmp_path / "x.index")
        assert len(index) == (8 if verb == "build" else 16)
        assert all((first + i in index) is (i != 3) for i in range(9))


def test_a_port_in_use_is_told_and_has_exit_code_1(photos):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = run("serve", photos / "encoder.onnx", "--port", port)
    assert refused.returncode == 1
    assert f"error: The server must be able to listen on 127.0.0.1:{port}. Pass another" in refused.stderr
