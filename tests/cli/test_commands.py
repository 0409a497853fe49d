"""The command `keras-tfcl`: what it prints, its exit codes, and that serving commands never load TensorFlow."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import keras_tfcl
from keras_tfcl.export import OnnxEncoder, export_onnx, quantized_model, to_float16
from keras_tfcl.export.runtime.requirements import require

pytest.importorskip("typer")
from keras_tfcl.cli import main
from keras_tfcl.cli.app import COMMANDS
from keras_tfcl.cli.keras_file import without_native_logs

MATRIX = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """An image encoder: 2 x 2 RGB pixels times a matrix."""
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ("batch", 2, 2, 3))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("batch", 4))],
        [numpy_helper.from_array(MATRIX, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"keras_tfcl": json.dumps({"schema": 1, "weights_sha256": "abc"})})
    path = tmp_path_factory.mktemp("file") / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.random.default_rng(1).integers(0, 256, (60, 2, 2, 3)).astype("uint8"))
    return path


@pytest.fixture
def run(capsys):
    """Run the command in this process; return its exit code, and what it printed."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


SERVING = """
import sys
sys.argv = ["keras-tfcl", *sys.argv[1:]]  # as the installed script is called
from keras_tfcl.cli import main
code = main()
loaded = {"tensorflow", "keras", "tf2onnx"} & set(sys.modules)
assert not loaded, loaded
sys.exit(code)
"""


def in_a_new_process(*arguments):
    command = [sys.executable, "-W", "error", "-c", SERVING, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_TFCL_ON_DEMAND"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_serving_commands_do_not_import_tensorflow(file, pixels, tmp_path):
    out = tmp_path / "out.npy"
    runs = (["--help"], ["inspect", file], ["embed", file, pixels, "-o", out], ["doctor"], ["bench", file])
    for arguments in runs:
        done = in_a_new_process(*arguments, *(["--seconds", "0.01"] if arguments[0] == "bench" else []))
        assert done.returncode == 0, (arguments, done.stderr)
    np.testing.assert_allclose(np.load(out), np.load(pixels).reshape(60, 12) @ MATRIX, rtol=1e-4, atol=1e-2)


def test_a_process_may_ask_for_tensorflow_on_demand(monkeypatch):
    monkeypatch.setenv("KERAS_TFCL_ON_DEMAND", "1")
    code = (
        "import sys, keras_tfcl.export\n"
        "from keras_tfcl.availability import tensorflow_is_installed\n"
        "assert tensorflow_is_installed() and 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_failure_is_one_message(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    done = in_a_new_process("inspect", tmp_path / "bad.onnx")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: Expected a whole ONNX file\. Received: .*bad\.onnx.*\n", done.stderr)


def test_help_lists_every_command_with_an_example(run):
    code, out, _ = run("--help")
    assert code == 0
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", out)
        code, text, _ = run(name, "--help")
        assert code == 0
        assert f"keras-tfcl {name} " in " ".join(text.split())


def test_version(run):
    assert run("--version") == (0, f"keras-tfcl {keras_tfcl.__version__}\n", "")


LOGS = """
import logging, os, sys, warnings
os.environ["KERAS_TFCL_ON_DEMAND"] = "1"
from keras_tfcl.cli import app, keras_file

def command():
    with keras_file.without_native_logs():
        os.write(2, b"I0000 port.cc: a log line of C++\\n")
        logging.getLogger("tf2onnx").error("a log line of Python")
        warnings.warn("a warning of another package")
        print("our own line", file=sys.stderr)
    os.write(2, b"after\\n")
    raise ValueError("an error\\n  in two lines")

app.build_app = lambda: lambda *arguments, **options: command()
sys.exit(app.run([]))
"""


@pytest.mark.parametrize("level", [None, "0"])
def test_logs_of_other_packages_do_not_stand_before_our_lines(level):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {} if level is None else {"TF_CPP_MIN_LOG_LEVEL": level}
    done = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    if level is None:
        assert lines == ["our own line", "after", "error: an error in two lines"]
    else:  # whoever sets it wants to see them
        assert lines[0].startswith("I0000") and len(lines) == 5


def test_a_command_runs_with_a_closed_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as Python sets it then
    with without_native_logs():
        pass


class TestEmbed:
    def test_parquet_names_each_image(self, run, file, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        folder = tmp_path / "images"
        (folder / "inside").mkdir(parents=True)
        names = ["b.png", "a.PNG", "inside/c.png"]
        images = dict(zip(names, np.random.default_rng(2).integers(0, 256, (3, 2, 2, 3)).astype("uint8"), strict=True))
        for name, image in images.items():
            Image.fromarray(image).save(folder / name, "PNG")
        (folder / "notes.txt").write_text("no image")
        code, out, _ = run("embed", file, folder, "-o", tmp_path / "x.parquet", "--json")
        assert code == 0
        assert json.loads(out) == {
            "ok": True, "out": str(tmp_path / "x.parquet"), "rows": 3, "dimension": 4,
            "providers": ["CPUExecutionProvider"], "skipped": [],
        }  # fmt: skip
        table = parquet.read_table(tmp_path / "x.parquet").to_pylist()
        assert [row["id"] for row in table] == sorted(str(folder / name) for name in names)
        for row in table:
            image = images[os.path.relpath(row["id"], folder)]
            np.testing.assert_allclose(row["embedding"], image.ravel() @ MATRIX, rtol=1e-4, atol=1e-2)

    def test_one_broken_image_is_named_and_nothing_written(self, run, file, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
        code, out, err = run("embed", file, tmp_path / "broken.jpg", "-o", tmp_path / "x.npy")
        assert (code, out) == (1, "")
        assert "broken.jpg" in err
        assert [path.name for path in tmp_path.iterdir()] == ["broken.jpg"]

    def test_skip_leaves_broken_images_out_and_names_them(self, run, file, tmp_path):
        """The images are those that `train` finds in a folder: behind links too, hidden ones and pipes left out."""
        folder = tmp_path / "images"
        (folder / ".thumbnails").mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        (folder / "linked").symlink_to(tmp_path / "elsewhere")
        for name in ("a.png", "b.png", ".thumbnails/a.png", "linked/c.jfif"):
            Image.fromarray(np.full((2, 2, 3), 7, "uint8")).save(folder / name)
        (folder / "._b.png").write_bytes(b"hidden")
        (folder / "nowhere.png").symlink_to("absent")
        os.mkfifo(folder / "pipe.jpg")
        (folder / "aa.jpg").write_bytes(b"\xff\xd8\xff")
        arguments = ["embed", file, folder, "-o", tmp_path / "x.npz", "--on-error", "skip"]
        code, out, err = run(*arguments)
        assert code == 0
        assert re.fullmatch(r"skipped: .*aa\.jpg.*\nskipped: .*nowhere\.png.*\n", err)
        assert "3 embeddings of length 4, 2 skipped" in out
        code, out, _ = run(*arguments, "--json")
        assert json.loads(out)["skipped"] == [str(folder / "aa.jpg"), str(folder / "nowhere.png")]
        with np.load(tmp_path / "x.npz") as stored:
            assert stored["id"].tolist() == [str(folder / name) for name in ("a.png", "b.png", "linked/c.jfif")]
            assert stored["embedding"].shape == (3, 4)
        assert run(*arguments[:-1], "stop")[0] == 1
        assert run(*arguments[:-1], "ignore")[0] == 2

    def test_a_text_a_line(self, run, tmp_path):
        parquet, tokenizers = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("tokenizers")
        words = tokenizers.models.WordLevel({"[UNK]": 0, "cat": 1, "dog": 2}, unk_token="[UNK]")
        tokenizer = tokenizers.Tokenizer(words)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        ids = keras.Input((None,), dtype="int32")
        model = keras.Model(ids, keras.layers.GlobalMaxPooling1D()(keras.layers.Embedding(3, 4)(ids)))
        model.save(tmp_path / "text.keras")
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        file = tmp_path / "text.onnx"
        exported = run("export", tmp_path / "text.keras", file, "--tokenizer", tmp_path / "tokenizer.json")
        assert exported[0] == 0, exported
        (tmp_path / "texts.txt").write_text("\ufeffcat\n\na\u2028dog\n", encoding="utf-8")
        assert run("embed", file, tmp_path / "texts.txt", "-o", tmp_path / "x.parquet")[0] == 1, "an empty line"
        arguments = ["embed", file, tmp_path / "texts.txt", "-o", tmp_path / "x.parquet", "--on-error", "skip"]
        code, out, err = run(*arguments, "--json")
        assert code == 0 and json.loads(out)["skipped"] == [""] and "text 1" in err
        table = parquet.read_table(tmp_path / "x.parquet").to_pylist()
        assert [row["id"] for row in table] == [0, 2]
        expected = OnnxEncoder(file).encode(["cat", "a dog"])
        np.testing.assert_allclose([row["embedding"] for row in table], expected, atol=1e-6)
        (tmp_path / "two.txt").write_text("cat\na dog\n", encoding="utf-8")
        index = tmp_path / "texts.index"
        assert run("index", "build", file, tmp_path / "two.txt", "-o", index)[0] == 0
        code, out, _ = run("index", "search", file, index, tmp_path / "two.txt", "-k", "1")
        assert code == 0 and out.splitlines() == ["cat", "  1.0000  0  cat", "a dog", "  1.0000  1  a dog"]
        code, out, _ = run("index", "search", file, index, "a dog", "-k", "1")
        assert code == 0 and out.splitlines() == ["a dog", "  1.0000  1  a dog"]
        code, _, err = run("index", "search", file, index, tmp_path / "three.txt")  # no text
        assert code == 1 and "three.txt" in err

    def test_npz_with_an_array_for_each_input(self, run, tmp_path):
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node("Sub", ["left", "right"], ["embedding"])],
            "by hand",
            [value(name, TensorProto.FLOAT, ("batch", 4)) for name in ("left", "right")],
            [value("embedding", TensorProto.FLOAT, ("batch", 4))],
        )
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "two.onnx"
        )
        left, right = np.random.default_rng(0).normal(size=(2, 30, 4)).astype("float32")
        np.savez(tmp_path / "rows.npz", right=right, left=left)
        assert run("embed", tmp_path / "two.onnx", tmp_path / "rows.npz", "-o", tmp_path / "x.npy")[0] == 0
        np.testing.assert_allclose(np.load(tmp_path / "x.npy"), left - right, atol=1e-6)
        for command in (["bench", "--seconds", "0.01"], ["quantize", tmp_path / "int8.onnx", "--mode", "float16"]):
            name, *rest = command
            code, _, err = run(name, tmp_path / "two.onnx", *rest, "--samples", tmp_path / "rows.npz")
            assert code == 0 or "weights to store in float16" in err
        (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
        assert run("embed", tmp_path / "two.onnx", tmp_path / "broken.npz", "-o", tmp_path / "x.npy")[0] == 1

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["-o", "x.csv"], 2),
            ([], 2),
            (["-o", "x.npy", "--batch-size", "0"], 2),
            (["-o", "x.npy", "--provider", "cudo"], 2),
            (["-o", "x.npy", "--provider", "cuda", "--strict"], 1),
        ],
    )
    def test_exit_codes(self, run, file, pixels, arguments, code, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert run("embed", file, pixels, *arguments)[0] == code
        assert list(tmp_path.iterdir()) == []

    def test_a_fallback_is_a_warning_in_one_line(self, run, file, pixels, tmp_path):
        code, _, err = run("embed", file, pixels, "-o", tmp_path / "x.npy", "--provider", "cuda")
        assert code == 0
        assert re.fullmatch(r"warning: Expected the execution providers.*CUDAExecutionProvider.*\n", err)

    def test_files_that_are_no_rows(self, run, file, tmp_path):
        (tmp_path / "pickled.npy").write_bytes(b"\x80\x04N.")
        np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
        (tmp_path / "empty").mkdir()
        for name in ("pickled.npy", "objects.npy", "empty"):
            assert run("embed", file, tmp_path / name, "-o", tmp_path / "x.npy")[0] == 1
        assert not (tmp_path / "x.npy").exists()


def test_inspect(run, file):
    code, out, _ = run("inspect", file, "--json")
    content = json.loads(out)
    assert code == 0
    assert content["bytes"] == file.stat().st_size
    assert content["inputs"] == "image: uint8 (batch, 2, 2, 3)"
    assert content["metadata"]["weights_sha256"] == "abc"
    text = run("inspect", file)[1]
    assert "weights_sha256" in text and content["sha256"] in text


@pytest.mark.parametrize("problems", [(), ("two wheels",)])
def test_doctor_says_in_json_what_its_exit_code_says(run, monkeypatch, problems):
    from keras_tfcl.cli import doctor

    report = dataclasses.replace(doctor.check_environment(), problems=problems)
    monkeypatch.setattr(doctor, "check_environment", lambda: report)
    code, out, _ = run("doctor", "--json")
    assert (code, json.loads(out)["ok"]) == (bool(problems), not problems)


def test_quantize(run, file, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(quantized_model, "_SECONDS", 0.0)  # of measuring the latency
    code, out, _ = run("quantize", file, tmp_path / "int8.onnx", "--samples", pixels, "--json")
    assert code == 0
    assert json.loads(out)["mode"] == "dynamic" == OnnxEncoder(tmp_path / "int8.onnx").metadata["quantization"]["mode"]
    code, out, _ = run("quantize", file, tmp_path / "half.onnx", "--samples", pixels, "--mode", "float16")
    assert code == 0
    assert "neighbours kept" in out
    code, out, err = run("quantize", file, tmp_path / "no.onnx", "--samples", pixels, "--min-recall", "1")
    assert (code, out) == (1, "")
    assert "nearest neighbours must be kept" in err
    code, out, _ = run("quantize", file, tmp_path / "no.onnx", "--samples", pixels, "--min-recall", "1", "--json")
    assert code == 1
    assert json.loads(out)["error"] == "RecallError"
    assert not (tmp_path / "no.onnx").exists()
    half = ["--mode", "float16", "--calibration", pixels]
    assert run("quantize", file, tmp_path / "no.onnx", "--samples", pixels, *half)[0] == 2
    assert run("quantize", file, tmp_path / "no.onnx")[0] == 2
    assert run("quantize", file, tmp_path / "no.onnx", "--samples", pixels, "--min-recall", "95")[0] == 2


def test_bench(run, file):
    code, out, _ = run("bench", file, "--batch-size", "1", "--batch-size", "5", "--seconds", "0.01", "--json")
    speeds = json.loads(out)["speeds"]
    assert code == 0
    assert [speed["batch_size"] for speed in speeds] == [1, 5]
    assert all(speed["rows_per_second"] > 0 and 0 < speed["p50_ms"] <= speed["p95_ms"] for speed in speeds)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A ContrastiveModel on disk: its loss and projector must be known to Keras when it is loaded."""
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model = keras_tfcl.ContrastiveModel(encoder, projector=keras_tfcl.ProjectionHead((8, 4)))
    model.compile("sgd", loss=keras_tfcl.ArctanhInfoNCE())
    model.predict(np.zeros((1, 6), "float32"), verbose=0)
    path = tmp_path_factory.mktemp("saved") / "run.keras"
    model.save(path)
    return path, encoder


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_export_and_verify(run, saved, tmp_path):
    path, encoder = saved
    out = tmp_path / "encoder.onnx"
    code, printed, _ = run("export", path, out, "--no-normalize", "--json")
    assert code == 0
    assert json.loads(printed)["matches"] is True
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    np.testing.assert_allclose(OnnxEncoder(out).encode(x), encoder.predict(x, verbose=0), atol=1e-5)
    for arguments in (["--model", path], []):
        code, printed, _ = run("verify", out, *arguments)
        assert (code, printed.partition(":")[0]) == (0, "The embeddings are the same")
    export_onnx(keras.models.clone_model(encoder), tmp_path / "other.onnx", normalize=False)  # new weights
    code, printed, err = run("verify", tmp_path / "other.onnx", "--model", path)
    assert (code, printed) == (1, "")
    assert "weights of the model are not those in the file" in err
    assert run("verify", out, "--samples", path)[0] == 2
    code, _, err = run("verify", out, "--model", path, "--provider", "cuda")
    assert (code, "--provider cannot be combined with --model" in err) == (2, True)
    np.savez(tmp_path / "rows.npz", x=x)
    (tmp_path / "rows.csv").write_text("1,2")
    for arguments in (["verify", out, "--model", path], ["export", path, tmp_path / "again.onnx"]):
        assert run(*arguments, "--samples", tmp_path / "rows.npz")[0] == 0
        code, _, err = run(*arguments, "--samples", tmp_path / "rows.csv")
        assert (code, "Expected a .npy file" in err) == (1, True)


def test_verify_finds_a_file_that_gives_other_embeddings_here(run, saved, tmp_path):
    """As another onnxruntime, or a tool that changed the graph, would."""
    _, encoder = saved
    export_onnx(encoder, tmp_path / "encoder.onnx")
    model = onnx.load(tmp_path / "encoder.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [6, 4])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.01, tensor.name))
    facts = json.loads(model.metadata_props[0].value)
    for name in ("content_hash", "metadata_hash"):  # or the change itself would be noticed
        facts.pop(name, None)
    helper.set_model_props(model, {"keras_tfcl": json.dumps(facts)})
    onnx.save(model, tmp_path / "changed.onnx")
    code, out, err = run("verify", tmp_path / "changed.onnx")
    assert (code, out) == (1, "")
    assert "embeddings recorded in the file" in err


def test_verify_knows_a_quantized_model_by_its_own_embeddings(run, saved, tmp_path):
    _, encoder = saved
    export_onnx(encoder, tmp_path / "encoder.onnx")
    samples = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    to_float16(tmp_path / "encoder.onnx", tmp_path / "half.onnx", samples=samples)
    assert run("verify", tmp_path / "half.onnx")[0] == 0
    probes = [OnnxEncoder(tmp_path / name).metadata["probes"] for name in ("encoder.onnx", "half.onnx")]
    assert probes[0] != probes[1]
    assert [probe["inputs"] for probe in probes[0]] == [probe["inputs"] for probe in probes[1]]


@pytest.mark.slow  # loads TensorFlow in a new process
def test_export_in_a_new_process_knows_the_classes_of_the_library(saved, tmp_path):
    path, encoder = saved
    code = SERVING.replace("assert not loaded, loaded", "assert 'tensorflow' in loaded")
    command = [sys.executable, "-c", code, "export", path, tmp_path / "encoder.onnx", "--no-normalize"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    x = np.ones((2, 6), "float32")
    np.testing.assert_allclose(
        OnnxEncoder(tmp_path / "encoder.onnx").encode(x), encoder.predict(x, verbose=0), atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("rescaled", [True, False])
def test_images_are_embedded_as_the_model_embeds_their_pixels(run, tmp_path, rescaled):
    """The range comes from the model's own Rescaling, or else from the command line; the size from its input."""
    layers = keras.layers
    body = [layers.Flatten(), layers.Dense(4)]
    model = keras.Sequential([keras.Input((6, 5, 3)), *[layers.Rescaling(1 / 255)] * rescaled, *body])
    if rescaled:
        export_onnx(model, tmp_path / "encoder.onnx", normalize=False)
    else:
        model.save(tmp_path / "model.keras")
        arguments = ["--pixel-range", "0", "1", "--no-normalize"]
        assert run("export", tmp_path / "model.keras", tmp_path / "encoder.onnx", *arguments)[0] == 0
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3)).astype("uint8")
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    files = [tmp_path / f"{i}.png" for i in range(3)]
    assert run("embed", tmp_path / "encoder.onnx", *files, "-o", tmp_path / "x.npy")[0] == 0
    expected = model.predict(images.astype("float32") / (1 if rescaled else 255), verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)


def test_export_of_what_is_no_model(run, tmp_path):
    (tmp_path / "bad.keras").write_bytes(b"nonsense")
    code, _, err = run("export", tmp_path / "bad.keras", tmp_path / "out.onnx")
    assert code == 1
    assert "model.save" in err
    assert run("export", tmp_path / "missing.keras", tmp_path / "out.onnx")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bad.keras"]


def test_missing_typer_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    assert main([]) == 1
    assert 'pip install "keras-tfcl[cli]"' in capsys.readouterr().err


def test_the_package_that_is_missing_is_named_not_the_module_that_imports_it(monkeypatch, tmp_path):
    (tmp_path / "ours.py").write_text("import not_there.at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r'package `not_there`.*pip install "keras-tfcl\[tf\]"'):
        require("ours", "tf")


@pytest.mark.slow  # loads TensorFlow in a new process
def test_a_refused_export_is_one_line_on_stderr(tmp_path):
    x = keras.Input((6, 6, 3))
    y = keras.layers.Resizing(4, 4, interpolation="area")(x)
    keras.Model(x, keras.layers.Dense(4)(keras.layers.Flatten()(y))).save(tmp_path / "area.keras")
    (tmp_path / "bad.keras").write_bytes(b"nonsense")
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    for name in ("area.keras", "bad.keras"):
        code = "import sys; sys.argv[0] = 'keras-tfcl'; from keras_tfcl.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "export", tmp_path / name, tmp_path / "out.onnx"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"error: .*\n", done.stderr), done.stderr


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    keras.utils.set_random_seed(0)
    noise = keras.layers.GaussianNoise(0.5, seed=0)
    encoder = keras.Sequential([keras.Input((12,)), keras.layers.Dense(16)])
    model = keras_tfcl.ContrastiveModel(encoder, augmenter=noise)
    model.compile("adam", keras_tfcl.ArctanhInfoNCE())
    path = tmp_path_factory.mktemp("diagnose") / "run.keras"
    model.save(path)
    return path


class TestDiagnose:
    X = np.random.default_rng(0).normal(size=(120, 12)).astype("float32")
    LABELS = np.arange(120) % 3

    def test_the_classes_of_the_library_are_known_in_a_new_process(self):
        names = ["ContrastiveModel", "ArctanhInfoNCE", "Alignment", "ImageAugmenter"]
        code = "import keras, keras_tfcl.diagnostics.saved_model\n"
        code += f"print([keras.saving.get_registered_object('keras_tfcl>' + name) is None for name in {names}])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == str([False] * len(names))

    def test_a_saved_model(self, run, run_file, tmp_path):
        np.savez(tmp_path / "held_out.npz", x=self.X, y=self.LABELS)
        code, out, _ = run("diagnose", run_file, tmp_path / "held_out.npz", "-o", tmp_path / "r.html")
        assert (code, "Healthy. Written" in out) == (0, True)
        assert "run.keras on held_out.npz" in (tmp_path / "r.html").read_text()
        np.savez(tmp_path / "copies.npz", x=np.resize(self.X[:2], (120, 12)))
        code, out, _ = run("diagnose", run_file, tmp_path / "copies.npz", "-o", tmp_path / "r.html")
        assert (code, "Healthy" in out, "Written" in out) == (1, False, True)

    def test_what_it_cannot_read(self, run, run_file, tmp_path):
        np.savez(tmp_path / "data.npz", z=self.X)
        code, _, err = run("diagnose", run_file, tmp_path / "data.npz", "-o", tmp_path / "r.html")
        assert (code, "must hold an array `x` or `images`" in err) == (2, True)
        assert not (tmp_path / "r.html").exists()

    @pytest.mark.parametrize("labelled", [False, True])
    def test_a_folder_of_images(self, run, tmp_path, labelled):
        """In the size of the model's input, with the kNN accuracy if there are labels; a broken file is left out."""
        rng, folder = np.random.default_rng(0), tmp_path / "photos"
        for i in range(40):
            path = folder / (f"class_{i % 2}" if labelled else "any/depth") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (9, 12, 3), "uint8")).save(path)
        path.write_bytes(b"broken")
        encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(8)])
        (tmp_path / "run").mkdir()
        encoder.save(tmp_path / "run" / "model.keras")
        code, out, err = run("diagnose", tmp_path / "run", folder, "-o", tmp_path / "r.html", "--rows", "50")
        assert code in (0, 1) and "Written" in out, err
        text = (tmp_path / "r.html").read_text()
        assert "<th>samples</th><td>39<" in text and ("kNN accuracy" in text) == labelled

    def test_a_folder_for_a_model_of_other_samples(self, run, run_file, tmp_path):
        Image.fromarray(np.zeros((4, 4, 3), "uint8")).save(tmp_path / "black.png")
        code, _, err = run("diagnose", run_file, tmp_path, "-o", tmp_path / "r.html")
        assert (code, err.count("\n")) == (2, 1)
        assert "needs images in PATH/label/file" in err


def test_a_model_with_custom_classes(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('own_package')\n"
        "class Doubled(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 2 * x\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [tmp_path.as_posix(), *sys.path])
    own = importlib.import_module("own_package.layers")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), own.Doubled()]).save("own.keras")
    # From here on, Keras does not know the class, as in a new process.
    monkeypatch.delitem(keras.saving.get_custom_objects(), "own_package>Doubled")
    for name in ("own_package", "own_package.layers"):
        monkeypatch.delitem(sys.modules, name)
    sys.path.remove(tmp_path.as_posix())

    assert main(["export", "own.keras", "own.onnx"]) == 1
    assert "--import my.module" in capsys.readouterr().err
    assert main(["export", "own.keras", "own.onnx", "--import", "nothing"]) == 2
    assert "No module named 'nothing'" in capsys.readouterr().err
    assert main(["export", "own.keras", "own.onnx", "--import", "own_package.layers"]) == 0
    assert OnnxEncoder("own.onnx").dimension == 3
