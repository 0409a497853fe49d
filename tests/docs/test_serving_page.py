"""docs/serving.md: its code and its commands run, in order."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest

from keras_tfcl.export import Index, export_onnx

for package in ("typer", "PIL", "pyarrow", "tokenizers"):
    pytest.importorskip(package)

PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
PAGE = PAGE.replace("min_recall=0.95", "min_recall=0.5").replace("--min-recall 0.95", "--min-recall 0.5")  # 60 images
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
COLOURS = np.random.default_rng(0).uniform(0, 200, (60, 1, 1, 3))
IMAGES = np.floor(COLOURS + np.random.default_rng(1).uniform(0, 50, (60, 32, 32, 3))).astype("float32")
OWN = """
import keras
@keras.saving.register_keras_serializable(package="my")
class Halved(keras.layers.Layer):
    def call(self, x):
        return x / 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Encoders of images and texts, images, texts, and a folder as sentence-transformers write it."""
    from PIL import Image
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("page")
    image_model().save(folder / "run.keras")
    export_onnx(image_model(), folder / "encoder.onnx")
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "text": 2, "another": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    export_onnx(text_model(), folder / "words.onnx", tokenizer=tokenizer)
    (folder / "texts.txt").write_text("a text\nanother\n")
    for i, name in enumerate(("cat.jpg", "dog.png", *(f"photos/{i}.png" for i in range(60)))):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(IMAGES[i % 60].astype("uint8")).save(folder / name)
    matrix = onnx.numpy_helper.from_array(np.ones((4, 8), "float32"), "matrix")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["matrix", "input_ids"], ["last_hidden_state"])],
        "tokens",
        [value("input_ids", onnx.TensorProto.INT64, ("batch", "length"))],
        [value("last_hidden_state", onnx.TensorProto.FLOAT, ("batch", "length", 8))],
        [matrix],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (folder / "all-MiniLM-L6-v2").mkdir()
    tokenizer.save(str(folder / "all-MiniLM-L6-v2" / "tokenizer.json"))
    (folder / "all-MiniLM-L6-v2" / "1_Pooling").mkdir()
    (folder / "all-MiniLM-L6-v2" / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    for path in ("all-MiniLM-L6-v2/model.onnx", "other.onnx"):
        onnx.save(model, folder / path)
    return folder


def image_model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(16, 3, 2), keras.layers.ReLU(), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), *layers])


def text_model():
    inputs = keras.Input((None,), dtype="int32")
    return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(4, 8)(inputs)))


class Stream:
    """Batches that come again with each loop."""

    def __iter__(self):
        yield from (IMAGES[:30], IMAGES[30:])


def test_python(folder, monkeypatch):
    monkeypatch.chdir(folder)
    shutil.copy("encoder.onnx", "new.onnx")
    scope = {
        "images": IMAGES, "dataset": Stream(), "index": Index(16), "paths": ["cat.jpg", "dog.png"], "path": "new.onnx",
        "tokenizer": "tokenizer.json", "export_onnx": export_onnx,
    }  # fmt: skip
    for _, block in (block for block in BLOCKS if block[0] == "python"):
        scope["model"] = text_model() if "tokenizer=" in block else image_model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no CUDA here; a vocabulary without a token for padding
            exec(compile(block, "docs/serving.md", "exec"), scope)
    assert len(scope["index"]) == 60 and np.load("vectors.npy").shape == (60, 16)
    assert {"vectors.parquet", "vectors.npz", "int8.onnx"} <= set(os.listdir())


@pytest.mark.slow
def test_commands(folder):
    (folder / "my").mkdir()
    (folder / "my" / "layers.py").write_text(OWN)
    scope = {}
    exec(OWN, scope)
    keras.Sequential([keras.Input((6,)), scope["Halved"]()]).save(folder / "own.keras")
    np.savez(folder / "images.npz", x=IMAGES, y=np.arange(60) % 3)
    bin_folder = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": bin_folder + os.pathsep + os.environ["PATH"], "PYTHONPATH": str(folder)}
    (commands,) = [block for kind, block in BLOCKS if kind == "sh"]
    for line in commands.splitlines():
        words = shlex.split(line, comments=True)
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
        fine = (0, 1) if words[1] == "diagnose" else (0,)  # it may find this encoder ill
        assert done.returncode in fine, (line, done.stdout[-1500:], done.stderr[-1500:])
    assert (folder / "report.html").exists()
