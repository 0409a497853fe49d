"""The bulk jobs in examples/: workers and whole runs are killed, nothing is lost and nothing is written twice.

Ray and Beam are in no extra. `KERAS_TFCL_BULK_PYTHON` names a Python that has them, beside this library.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from keras_tfcl.export import OnnxEncoder

parquet = pytest.importorskip("pyarrow.parquet")
image = pytest.importorskip("PIL.Image")

EXAMPLES = Path(__file__).parents[1] / "examples"
PYTHON = os.environ.get("KERAS_TFCL_BULK_PYTHON", sys.executable)
SCRIPTS = {"bulk_ray.py": ("ray", b"ray::Embedder"), "bulk_beam.py": ("apache_beam", b"sdk_worker_main")}
COUNT = 1200


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """An encoder, and a folder of images of which one is broken."""
    folder = tmp_path_factory.mktemp("bulk")
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Cast", ["image"], ["x"], to=1), helper.make_node("ReduceMean", ["x"], ["embedding"])]
    nodes[1].attribute.extend([helper.make_attribute("axes", [1, 2]), helper.make_attribute("keepdims", 0)])
    inputs = [value("image", TensorProto.UINT8, ("batch", 32, 32, 3))]
    graph = helper.make_graph(nodes, "mean", inputs, [value("embedding", TensorProto.FLOAT, ("batch", 3))])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "encoder.onnx"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 40, 48, 3), "uint8")
    (folder / "images" / "more").mkdir(parents=True)
    for i in range(COUNT):
        image.fromarray(pixels[i]).save(folder / "images" / ("more" if i % 2 else "") / f"{i}.png")
    (folder / "images" / "broken.png").write_bytes(b"no image")
    return folder


def command(script, job, out, *more):
    if subprocess.run([PYTHON, "-c", f"import {SCRIPTS[script][0]}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{SCRIPTS[script][0]} is not installed for {PYTHON}")
    paths = [EXAMPLES / script, job / "encoder.onnx", job / "images", out]
    return [PYTHON, *map(str, paths), "--workers", "2", *more]


def check(job, out):
    """Each image but the broken one has its embedding, once."""
    table = parquet.read_table([*out.glob("run-*/*.parquet")]).to_pylist()
    found = {row["id"]: row["embedding"] for row in table}
    names = sorted(path.relative_to(job / "images").as_posix() for path in (job / "images").rglob("[0-9]*.png"))
    assert len(table) == len(found) == COUNT and sorted(found) == names
    expected = OnnxEncoder(job / "encoder.onnx").encode([job / "images" / name for name in names])
    np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-5)
    letters = [json.loads(line) for line in (out / "dead_letters.jsonl").read_text().splitlines()]
    assert [letter["id"] for letter in letters] == ["broken.png"] and "none of them" in letters[0]["error"]


def descendants(pid):
    """Processes that a process started, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(") ", 1)[1].split()[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def workers(process, mark):
    found = []
    for pid in descendants(process.pid):
        try:
            found += [pid] if mark in Path(f"/proc/{pid}/cmdline").read_bytes() else []
        except OSError:
            continue
    return found


def wait_for_shards(process, out, count):
    while process.poll() is None and len([*out.glob("*.open/*.parquet")]) < count:
        time.sleep(0.005)
    assert process.poll() is None, "it was over before it could be killed"


def test_shards_are_written_once_whoever_writes_them(job, tmp_path, monkeypatch):
    """Runs follow one another, a shard is repeated, and a worker of the first run is late."""
    monkeypatch.syspath_prepend(EXAMPLES)
    shards = importlib.import_module("bulk_shards")
    places, out, encoder = (job / "encoder.onnx", job / "images"), tmp_path / "out", OnnxEncoder(job / "encoder.onnx")
    first, parts = shards.begin_run(*places, out, 100)
    for part in parts[:3] + parts[:1]:
        shards.embed_shard(encoder, job / "images", part, first)
    second, rest = shards.begin_run(*places, out, 1000)
    with pytest.raises(FileNotFoundError):
        shards.embed_shard(encoder, job / "images", parts[3], first)
    dead = [letter for part in rest for letter in shards.embed_shard(encoder, job / "images", part, second)]
    shards.end_run(second)
    assert sum(map(len, rest)) == COUNT + 1 - 300
    (out / "dead_letters.jsonl").write_text("".join(json.dumps(letter) + "\n" for letter in dead))
    check(job, out)
    third, rest = shards.begin_run(*places, out, 100)
    assert rest == [["broken.png"]] and [*third.iterdir()] == []
    assert shards.embed_shard(encoder, job / "images", rest[0], third)[0]["id"] == "broken.png"


def test_an_image_that_the_model_fails_for_is_set_aside_alone(tmp_path, monkeypatch):
    """The logarithm of black is not finite."""
    monkeypatch.syspath_prepend(EXAMPLES)
    shards = importlib.import_module("bulk_shards")
    value, node = helper.make_tensor_value_info, helper.make_node
    nodes = [node("Cast", ["image"], ["x"], to=1), node("ReduceMax", ["x"], ["most"], axes=[1, 2], keepdims=0)]
    graph = helper.make_graph(
        [*nodes, node("Log", ["most"], ["embedding"])],
        "log",
        [value("image", TensorProto.UINT8, ("batch", 8, 8, 3))],
        [value("embedding", TensorProto.FLOAT, ("batch", 3))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "e.onnx")
    names = [f"{i}.png" for i in range(9)]
    for i, name in enumerate(names):
        image.new("RGB", (8, 8), (0, 0, 0) if i in (2, 7) else (i + 1, 9, 9)).save(tmp_path / name)
    (tmp_path / names[4]).write_bytes(b"no image")
    run = tmp_path / "run-0.open"
    run.mkdir()
    dead = shards.embed_shard(OnnxEncoder(tmp_path / "e.onnx"), tmp_path, names, run)
    assert sorted(letter["id"] for letter in dead) == ["2.png", "4.png", "7.png"]
    found = [row["id"] for row in parquet.read_table([*run.glob("*.parquet")]).to_pylist()]
    assert sorted(found) == [name for name in names if name not in ("2.png", "4.png", "7.png")]


POISON = """
import json, os, sys
from pathlib import Path

import bulk_ray, ray

@ray.remote(max_restarts=-1, max_task_retries=1)
class Mortal:
    def __init__(self, encoder, images, run):
        self.run = run

    def embed(self, shard):
        if "poison" in shard:
            os._exit(1)
        for name in shard:
            (self.run / name).open("x").close()
        return []

bulk_ray.Embedder = Mortal
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
shards = [["a", "b"], ["c", "d", "poison", "e"], ["f"]]
print(json.dumps([letter["id"] for letter in bulk_ray.embed_all(shards, 2, None, None, Path(sys.argv[1]))]))
"""


@pytest.mark.slow
def test_an_image_that_kills_ray_s_workers_is_set_aside_alone(job, tmp_path):
    command("bulk_ray.py", job, tmp_path)  # or skips
    done = subprocess.run(
        [PYTHON, "-c", POISON, tmp_path], cwd=EXAMPLES, capture_output=True, text=True, timeout=300, check=False
    )
    assert '["poison"]' in done.stdout.splitlines(), done.stderr[-2000:]  # raylet prints beside it
    assert sorted(file.name for file in tmp_path.iterdir()) == [*"abcdef"]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_that_was_killed_is_continued_in_other_shards(script, job, tmp_path):
    out = tmp_path / "out"
    first = subprocess.Popen(
        command(script, job, out, "--shard-size", "10"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_shards(first, out, 12)
    first.kill()
    first.wait()
    again = subprocess.run(command(script, job, out, "--shard-size", "37"), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    done = sum(parquet.ParquetFile(file).metadata.num_rows for file in out.glob("run-0/*.parquet"))
    assert 0 < done < COUNT and f"{COUNT - done} new embeddings, 1 images without one" in again.stdout
    check(job, out)


@pytest.mark.slow
def test_ray_replaces_a_worker_that_was_killed(job, tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(
        command("bulk_ray.py", job, out, "--shard-size", "10"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        wait_for_shards(process, out, 10)
        running = workers(process, SCRIPTS["bulk_ray.py"][1])
        assert len(running) == 2
        os.kill(running[0], signal.SIGKILL)
        assert f"{COUNT} new embeddings" in process.communicate(timeout=120)[0]
    check(job, out)


@pytest.mark.slow
def test_beam_fails_without_a_worker_and_is_continued(job, tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(
        command("bulk_beam.py", job, out, "--shard-size", "10"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_for_shards(process, out, 10)
        running = workers(process, SCRIPTS["bulk_beam.py"][1])
        assert len(running) == 4  # two shells, and their workers
        os.kill(running[-1], signal.SIGKILL)
        assert process.wait(60) != 0
    assert subprocess.run(command("bulk_beam.py", job, out), capture_output=True, check=False).returncode == 0
    check(job, out)
