"""`keras-tfcl train`: from a folder of images to an encoder, whatever lies among them, however often it stops."""

import functools
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types
import zipfile

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("typer")
from keras_tfcl.atomic_write import locked_file
from keras_tfcl.cli import available_memory, main
from keras_tfcl.cli.run_callbacks import SkippedImages
from keras_tfcl.cli.run_record import OUTPUTS
from keras_tfcl.data import image_batches
from keras_tfcl.diagnostics.saved_model import read_folder
from keras_tfcl.export import OnnxEncoder

# As the installed script is called: the library then imports TensorFlow only when it is needed.
COMMAND = """
import sys
sys.argv[0] = "keras-tfcl"
from keras_tfcl.cli import main
sys.exit(main())
"""
SETTINGS = ("--backbone", "resnet10", "--image-size", "16", "--epochs", "2", "--batch-size", "20")


def save_images(folder, count, seed=0):
    """Smooth random images, as JPEG and PNG."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (3, 4, 3)).astype("uint8"))
        small.resize((40, 30), Image.Resampling.BICUBIC).save(folder / f"{i:03}.{'jpg' if i % 2 else 'png'}")


def call(*arguments):
    return main([str(argument) for argument in arguments])


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """60 images in two folders of classes, and files that are none."""
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir()
        save_images(folder / name, 30, seed=label)
    whole = (folder / "cats" / "001.jpg").read_bytes()
    (folder / "cats" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cats" / "empty.png").write_bytes(b"")
    (folder / "dogs" / "two\nlines.gif").write_bytes(b"no image")
    (folder / "dogs" / "to_nowhere.jpg").symlink_to(folder / "absent")
    (folder / "dogs" / "._hidden.jpg").write_bytes(b"macOS leaves these")
    (folder / "dogs" / "vector.tif").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # a program
    return folder


BROKEN = ("cats/empty.png", "cats/truncated.jpg", "dogs/to_nowhere.jpg", "dogs/two\nlines.gif", "dogs/vector.tif")


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A complete run: its folder, and what was printed."""
    around = tmp_path_factory.mktemp("around")
    before = contents(photos)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "train", photos, "-o", "run", *SETTINGS, "--json"],
        cwd=around,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert contents(photos) == before  # nothing is written among the images
    assert [path.name for path in around.iterdir()] == ["run"]
    return around / "run", done


def test_a_run_writes_its_outputs_and_nothing_else(trained):
    folder, done = trained
    assert {path.name for path in folder.iterdir()} == {*OUTPUTS, "run.json"}
    result = json.loads(done.stdout)
    assert result["ok"] and result["images"] == 65 and result["epochs"] == 2
    assert result["cosine_to_keras"] > 0.9999 and 0 <= result["knn_accuracy"] <= 1
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["learning_rate"] == pytest.approx(1e-3 * 20 / 256)
    assert record["versions"]["keras"] == keras.__version__
    assert len(json.loads((folder / "history.json").read_text())) == 2
    with Image.open(folder / "neighbours.png") as picture:
        assert picture.width > 400


def test_only_our_lines_are_printed_and_every_broken_file_is_named(trained):
    _, done = trained
    lines = done.stderr.splitlines()
    assert lines[0].startswith("65 images, 16 pixels, batches of 20, learning rate 7.8e-05, 2 epochs")
    assert sorted(line.split(":")[1].strip() for line in lines if line.startswith("skipped: ")) == sorted(
        map(repr, BROKEN)
    )
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert all(line.startswith(("65 images", "skipped: ", "epoch ", "warning: ", "exporting ")) for line in lines), (
        done.stderr
    )
    last = next(line for line in lines if line.startswith("epoch 2/2: "))
    for what in ("loss ", "knn accuracy ", "effective rank ", " images/s, 0 s left"):
        assert what in last
    assert sorted(json.loads(done.stdout)["skipped"]) == sorted(BROKEN)


def test_of_many_broken_files_a_few_are_named(capsys):
    skipped = {f"{i:02}.{'heic' if i else 'jpg'}": "not read" for i in range(50)}
    callback = SkippedImages(types.SimpleNamespace(skipped=skipped))
    for _ in range(2):  # once
        callback.on_epoch_end(0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "skipped: '00.jpg': not read" and len(lines) == 21
    assert lines[-1] == "skipped: 30 more (30 .heic); run.json names all in the end"
    assert len(callback.named) == 50


def test_embed_takes_the_encoder_as_it_is(trained, photos, tmp_path, capsys):
    folder, _ = trained
    out = tmp_path / "photos.npz"
    assert call("embed", folder / "encoder.onnx", photos / "cats", "-o", out, "--on-error", "skip") == 0
    capsys.readouterr()
    assert next(v for v in np.load(out).values() if v.ndim == 2).shape[0] == 30


def odd_formats(window):
    """A window of a photograph in the formats that people have: (suffix, image, options of saving)."""
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = np.asarray(window.convert("L")).astype("uint16") * 257
    transparent = window.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(window.size))
    return (
        ("jpg", window, {}),
        ("jpg", window, {"exif": turned}),
        ("jpg", window.convert("L"), {}),
        ("jpg", window.convert("CMYK"), {}),
        ("png", transparent, {}),
        ("png", window.convert("P"), {"transparency": 3}),
        ("png", Image.fromarray(deep), {}),
        ("tif", Image.fromarray(deep), {}),
        ("webp", transparent, {}),
    )


def photographs(folder):
    """Windows of real photographs in several formats, sorted."""
    rng = np.random.default_rng(0)
    for name in pytest.importorskip("sklearn.datasets").load_sample_images().filenames:
        with Image.open(name) as image:
            image.load()
        width, height = (int(side) for side in rng.integers(80, 400, 2))
        left, top = int(rng.integers(0, 640 - width)), int(rng.integers(0, 427 - height))
        for i, (suffix, window, options) in enumerate(odd_formats(image.crop((left, top, left + width, top + height)))):
            window.save(folder / f"{os.path.basename(name)}_{i}.{suffix}", **options)
    return sorted(folder.iterdir())


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_training_prediction_diagnosis_and_serving_see_the_same_pixels(trained, tmp_path):
    folder, _ = trained
    paths = photographs(tmp_path)
    model, encoder = keras.models.load_model(folder / "model.keras"), OnnxEncoder(folder / "encoder.onnx")
    plain = image_batches(paths, 5, 16)
    pixels = np.concatenate([*plain.as_numpy_iterator()])
    assert len(pixels) == len(paths) == 18
    np.testing.assert_array_equal(read_folder(tmp_path, 16, len(paths))[0], pixels)
    np.testing.assert_array_equal([encoder.read_image(path) for path in paths], pixels)
    served = encoder.encode(paths)
    assert cosines(model.predict(plain, verbose=0), served).min() >= 0.9999
    assert encoder.metadata["notes"]["image"] == plain.image_rule
    # The test can fail: Keras' own loader does not antialias, and its images differ more than that.
    usual = [path for path in paths if path.suffix == ".jpg"]
    other = [keras.utils.img_to_array(keras.utils.load_img(path, target_size=(16, 16))) for path in usual]
    assert cosines(model.predict(np.stack(other), verbose=0), encoder.encode(usual)).min() < 0.9999


def test_the_same_command_again_trains_nothing(trained, photos, capsys):
    folder, done = trained
    before = contents(folder)
    assert call("train", photos, "-o", folder, *SETTINGS, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again.pop("complete_before") is True
    first = json.loads(done.stdout)
    assert again | {"folder": ""} == {k: v for k, v in first.items() if k != "complete_before"} | {"folder": ""}
    assert contents(folder) == before


def test_lost_outputs_are_written_again(trained, photos, capsys):
    folder, _ = trained
    weights = keras.models.load_model(folder / "model.keras").get_weights()
    (folder / "encoder.onnx").unlink()
    (folder / ".encoder.onnx.0123.tmp").mkdir()  # as a killed process leaves it
    assert call("train", photos, "-o", folder, *SETTINGS, "--quiet") == 0
    assert "nothing was trained" not in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {*OUTPUTS, "run.json"}
    for a, b in zip(weights, keras.models.load_model(folder / "model.keras").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_second_process_is_refused(trained, photos, tmp_path, capsys):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    (folder / "encoder.onnx").unlink()
    before = contents(folder)
    with locked_file(folder / "run.json"):
        assert call("train", photos, "-o", folder, *SETTINGS) == 2
    assert "One process at a time can train a run" in capsys.readouterr().err and contents(folder) == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--epochs", "3"), "--epochs 3, before --epochs 2"),
        (("--image-size", "24", "--no-flip"), "--image-size 24, before --image-size 16; --no-flip, before --flip,"),
        (("--loss", "infonce"), "--loss infonce, before --loss arctanh; --temperature 0.2, before --temp"),
        (("--seed", "1", "--min-area", "0.5"), "--min-area 0.5, before --min-area 0.08; --seed 1, before --seed 0"),
        (("--backbone", "MobileNetV2"), "--backbone MobileNetV2, before --backbone resnet10"),
    ],
)
def test_other_settings_are_refused_by_name(trained, photos, capsys, changed, named):
    folder, _ = trained
    before = (folder / "run.json").read_bytes()
    assert call("train", photos, "-o", folder, *SETTINGS, *changed) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"Received: {named}" in err and f", for the run in {folder}" in err
    assert (folder / "run.json").read_bytes() == before


def test_other_images_are_refused(trained, tmp_path, capsys):
    folder, _ = trained
    save_images(tmp_path, 40)
    assert call("train", tmp_path, "-o", folder, *SETTINGS) == 2
    assert "Received: other images, for the run in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", "0.2"), r"arctanh loss has no temperature"),
        (("--loss", "infonce", "--scale", "8"), r"InfoNCE has no scale. Received: --scale 8.0"),
        (("--scale", "-1"), r"--scale must be a positive number\. Received: -1"),
        (("--loss", "infonce", "--temperature", "0"), r"--temperature must be a positive number\. Received: 0"),
        (("--learning-rate", "nan"), r"--learning-rate must be a positive number\. Received: nan"),
        (("--backbone", "resnet19"), r"`name` must be \"resnet18\", \"resnet10\" or a model of keras"),
        (("--weights", "imagenet"), r"belongs to the models of keras\.applications\. Received: name='resnet18'"),
        (("--batch-size", "999"), r"`batch_size` must not exceed the number of images"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(photos, tmp_path, capsys, arguments, message):
    assert call("train", photos, "-o", tmp_path / "run", *arguments) == 2
    _, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err)
    assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_ends_in_one_line(photos, tmp_path, capsys, monkeypatch):
    def diverge(*_):
        raise FloatingPointError("The loss became nan in epoch 1, batch 1.")

    monkeypatch.setattr("keras_tfcl.cli.training_run.train", diverge)
    assert call("train", photos, "-o", tmp_path / "run", *SETTINGS) == 1
    assert capsys.readouterr().err == "error: The loss became nan in epoch 1, batch 1.\n"


def test_a_run_among_its_own_images_is_refused(photos, capsys):
    assert call("train", photos, "-o", photos / "run", *SETTINGS) == 2
    assert "must lie outside of the images" in capsys.readouterr().err
    assert not (photos / "run").exists()


def test_a_folder_with_a_model_of_another_origin_is_left_alone(photos, tmp_path, capsys):
    (tmp_path / "model.keras").write_bytes(b"mine")
    assert call("train", photos, "-o", tmp_path, *SETTINGS) == 2
    assert "which holds model.keras but no run.json" in capsys.readouterr().err
    assert contents(tmp_path) == {next(iter(contents(tmp_path))): b"mine"}


def test_images_that_all_are_broken_end_in_one_line(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for i in range(8):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(b"nothing")
    assert call("train", tmp_path / "photos", "-o", tmp_path / "run", "--image-size", "16", "--quiet") == 2
    _, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith(
        "error: The folder must hold readable images. Received: 8 of 8 that cannot be"
    )
    assert len(err.splitlines()) == 1


def start(*arguments):
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    # A shell makes what it starts in the background ignore Ctrl-C, tests too.
    ends_by_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=ends_by_ctrl_c
    )


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(tmp_path):
    """Ten times; the model is saved after every step, so that runs continue in the middle of an epoch."""
    (tmp_path / "photos").mkdir()
    save_images(tmp_path / "photos", 48)
    settings = ("--backbone", "resnet10", "--image-size", "16", "--batch-size", "8", "--epochs", "40", "--quiet")

    def command(run, *options):
        return "train", tmp_path / "photos", "-o", tmp_path / run, *settings, *options

    def steps(run):
        """Steps in the saved model: the optimizer's first variable."""
        if not (tmp_path / run / "model.keras").exists():
            return 0
        with zipfile.ZipFile(tmp_path / run / "model.keras") as archive:
            return int(h5py.File(io.BytesIO(archive.read("model.weights.h5")))["optimizer/vars/0"][()])

    def finish(process):
        _, errors = process.communicate()
        assert process.returncode == 0, errors

    finish(start(*command("whole")))
    rng, within = random.Random(0), 0
    for _ in range(10):
        begun = steps("killed")
        killed = start(*command("killed", "--save-every", "0.0001"))
        deadline = time.monotonic() + 120
        while steps("killed") == begun and time.monotonic() < deadline and killed.poll() is None:
            time.sleep(0.2)  # what comes before is the start of the process
        time.sleep(rng.uniform(0.0, 1.0))
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        within += steps("killed") % 6 > 0
    assert within > 0  # epochs of 6 steps were broken off
    finish(start(*command("killed")))
    expected, found = (keras.models.load_model(tmp_path / run / "model.keras") for run in ("whole", "killed"))
    for a, b in zip(expected.weights, found.weights, strict=True):
        if "metric" not in a.path:
            np.testing.assert_array_equal(a, b, err_msg=a.path)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_says_how_to_continue(photos, tmp_path):
    run = start("train", photos, "-o", tmp_path / "run", *SETTINGS[:4], "--epochs", "50")
    for line in run.stderr:
        if line.startswith("epoch 2"):
            break
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert errors.splitlines()[-1].startswith("Stopped. Give the same command again")
    assert (tmp_path / "run" / "model.keras").exists() and not (tmp_path / "run" / "encoder.onnx").exists()


def test_memory_is_that_of_the_container(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(available_memory, "LIMITS", (limit, tmp_path / "absent"))
    whole = available_memory.available_memory()
    limit.write_text("max\n")
    assert available_memory.available_memory() > whole / 2
    limit.write_text(f"{2**20}\n")
    assert available_memory.available_memory() == 2**20
