"""Checks an installed keras_tfcl. `train` needs the extra `all`; `serve` takes what `train` wrote, without TensorFlow.

python tools/smoke.py train FOLDER
python tools/smoke.py serve FOLDER
"""

import json
import math
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import numpy as np


def train(folder: Path) -> None:
    """A loss with a known value, one epoch, and an export that the runtime reproduces."""
    import keras

    import keras_tfcl
    from keras_tfcl.export import OnnxEncoder, export_onnx

    loss = keras_tfcl.InfoNCE(0.1)(np.array([0, 0, 1, 1]), np.eye(2, dtype="float32")[[0, 0, 1, 1]])
    expect(abs(float(loss) - math.log1p(2 * math.exp(-10))) < 1e-6, f"the loss is {float(loss)}")

    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype="uint8")
    encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    model = keras_tfcl.ContrastiveModel(encoder, augmenter=keras_tfcl.layers.image_augmenter("photos", (8, 8, 3)))
    model.compile("adam", loss=keras_tfcl.ArctanhInfoNCE())
    model.fit(images, batch_size=8, verbose=0)
    export_onnx(model, folder / "encoder.onnx")
    embeddings = OnnxEncoder(folder / "encoder.onnx").encode(images)
    np.testing.assert_allclose(embeddings, model.predict(images, verbose=0), atol=1e-5)
    np.savez(folder / "samples.npz", x=images, embeddings=embeddings)


def serve(folder: Path) -> None:
    """The file of `train`, by the class, the command and the server, where TensorFlow and Keras are not installed."""
    found = [name for name in ("tensorflow", "keras", "onnx") if find_spec(name)]
    expect(not found, f"{found} are installed")
    from keras_tfcl.export import OnnxEncoder

    with np.load(folder / "samples.npz") as data:
        images, expected = data["x"], data["embeddings"]
    np.save(folder / "x.npy", images)
    file, index = folder / "encoder.onnx", folder / "images.index"
    np.testing.assert_allclose(OnnxEncoder(file).encode(images), expected, atol=1e-5)
    command("verify", file)
    command("index", "build", file, folder / "x.npy", "-o", index)
    nearest = json.loads(command("index", "search", file, index, folder / "x.npy", "-k", "1", "--json"))
    expect("results" in nearest, f"the search answered {nearest}")
    with subprocess.Popen([program(), "serve", file, "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().split()[-1]
            body = json.dumps({"model": "encoder", "input": images[:1].tolist()}).encode()
            request = urllib.request.Request(f"{url}/v1/embeddings", body, {"Content-Type": "application/json"})
            answer = json.load(urllib.request.urlopen(request))
        finally:
            server.terminate()
    np.testing.assert_allclose(answer["data"][0]["embedding"], expected[0], atol=1e-5)


def program() -> str:
    """The command of this environment."""
    return str(Path(sys.executable).with_name("keras-tfcl"))


def command(*arguments: object) -> str:
    """What the command prints; an error if it fails."""
    done = subprocess.run([program(), *map(str, arguments)], capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"keras-tfcl {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def expect(condition: bool, otherwise: str) -> None:
    """Ends the check with a message."""
    if not condition:
        sys.exit(otherwise)


if __name__ == "__main__":
    import keras_tfcl

    expect(Path(sys.prefix) in Path(keras_tfcl.__file__).parents, f"keras_tfcl comes from {keras_tfcl.__file__}")
    expect(keras_tfcl.__version__ in command("--version") and "train" in command("--help"), "the command is wrong")
    {"train": train, "serve": serve}[sys.argv[1]](Path(sys.argv[2]))
    print(f"keras_tfcl {keras_tfcl.__version__}, Python {sys.version.split()[0]}: {sys.argv[1]} works")
