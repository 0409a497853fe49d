"""docs/server.md: every block of code runs, in order, as a newcomer would run it."""

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_tfcl.export import export_onnx

httpx = pytest.importorskip("httpx")
for package in ("uvicorn", "typer", "PIL", "pyarrow", "tokenizers", "openai", "tritonclient.http"):
    pytest.importorskip(package)

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/server.md").read_text(encoding="utf-8"), flags=re.DOTALL)
ELSEWHERE = (
    "pip ",
    "docker ",
    "python examples/bulk_",
)  # needs a registry, Docker, or Ray and Beam: test_bulk_examples
BIN = str(Path(sys.executable).parent)


def make_files(folder):
    """Two encoders, some images and texts."""
    from PIL import Image
    from tokenizers import Tokenizer, models, pre_tokenizers

    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3, 2), keras.layers.GlobalAveragePooling2D()]
    export_onnx(keras.Sequential([keras.Input((32, 32, 3)), *layers]), folder / "encoder.onnx")
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2, "dog": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = [keras.Input((None,), dtype="int32"), keras.layers.Embedding(4, 8), keras.layers.GlobalAveragePooling1D()]
    export_onnx(keras.Sequential(words), folder / "words.onnx", tokenizer=tokenizer)
    (folder / "texts.txt").write_text("a cat\na dog\n")
    rng = np.random.default_rng(0)
    for name in ("cat.jpg", "dog.png", "photos/1.jpg", "photos/2.png", "photos/new/3.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), "uint8")).save(folder / name)


class Page:
    """Runs commands and code in a folder; the port of the page becomes a free one."""

    def __init__(self, folder):
        self.folder, self.server, self.scope = folder, None, {}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = str(listener.getsockname()[1])
        self.env = {**os.environ, "PATH": BIN + os.pathsep + os.environ["PATH"]}

    def run(self, kind, block):
        block = block.replace("8000", self.port)
        if kind == "python":
            exec(compile(block, "docs/server.md", "exec"), self.scope)
            return
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            settings = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
            words = words[len(settings) :]
            if line.startswith(ELSEWHERE):
                continue
            if words[:2] == ["keras-tfcl", "serve"]:
                self.serve([*words, "--port", self.port], settings)
                continue
            done = subprocess.run(words, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stdout, done.stderr)

    def serve(self, words, settings):
        self.stop()
        self.server = subprocess.Popen(words, cwd=self.folder, env=self.env | settings, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{self.port}/health/ready").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"{words} is not ready")

    def stop(self):
        if self.server is not None:
            self.server.terminate()
            self.server.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    make_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    page = Page(tmp_path)
    try:
        for kind, block in BLOCKS:
            page.run(kind, block)
    finally:
        page.scope.get("triton") and page.scope["triton"].close()
        page.scope.get("client") and page.scope["client"].close()
        page.stop()
    printed = capsys.readouterr().out.split("\n")
    assert printed[:2] == ["8", "(4, 8)"] and printed[2].startswith("cat.jpg ")
    assert (tmp_path / "models/encoder/config.pbtxt").exists() and (tmp_path / "photos.parquet").exists()
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"} and len(BLOCKS) >= 11
