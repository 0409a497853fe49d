"""The report of healthy, collapsed and broken encoders, read as a browser would."""

import base64
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import keras
import numpy as np
import pytest

import keras_tfcl
from keras_tfcl.diagnostics import report_saved_model, suggest_loss, write_report
from keras_tfcl.diagnostics.report import COLOURS

X = np.random.default_rng(0).normal(size=(120, 12)).astype("float32")
LABELS = np.arange(120) % 3
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOISE = keras.layers.GaussianNoise(0.5, seed=0)


def encoder_with(bias=0.0):
    keras.utils.set_random_seed(0)
    constant = keras.initializers.Constant(bias)
    return keras.Sequential([keras.Input((12,)), keras.layers.Dense(16, bias_initializer=constant)])


class Page(HTMLParser):
    """What is on the page, and whatever it would load from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.outside, self.images, self.cells, self.texts = [], [], [], [], {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        for name in ("src", "href", "srcset", "action", "data"):
            if name in attributes and not attributes[name].startswith("data:"):
                self.outside.append(attributes[name])
        if tag == "img":
            self.images.append(attributes)
        if tag in ("script", "link", "iframe", "object"):
            self.outside.append(tag)
        if tag not in ("img", "meta", "br"):
            self.open.append((tag, attributes.get("id")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, name in self.open:
            self.texts[name] = self.texts.get(name, "") + data


def read(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.outside == []
    assert "http" not in text.split("<body>")[1].replace("data:image", "")
    for image in page.images:
        assert base64.b64decode(image["src"].partition("base64,")[2]).startswith(b"\x89PNG")
        assert image["alt"]
    return page


@pytest.fixture(scope="module")
def healthy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report(encoder_with(), (X, LABELS), path, NOISE, title="R & D <b>") == "Healthy"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path


@pytest.fixture(scope="module")
def healthy_page(healthy_file):
    return read(healthy_file)


def test_healthy(healthy_page):
    assert healthy_page.texts["verdict"].strip() == "Healthy"
    assert "Uniformity is" in healthy_page.texts["advice"]
    titles = {image["alt"] for image in healthy_page.images}
    assert {"Positives and negatives", "Positive and nearest negatives", "Directions in use"} <= titles
    assert "Uniformity and tolerance" in titles
    assert {"Relative penalty", "Gradient on the way to alignment"} <= titles


def test_names_are_escaped(healthy_page):
    assert "R & D <b>" in "".join(healthy_page.texts.values())


SCRIPT = """<script>addEventListener("load", () => { document.title = JSON.stringify({
    widths: [...document.images].map(image => image.naturalWidth),
    verdict: getComputedStyle(document.getElementById("verdict")).color,
    overflow: document.documentElement.scrollWidth - innerWidth}) })</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [600, 1400])
def test_a_browser_shows_all_of_it(healthy_file, tmp_path, width):
    copy = tmp_path / "page.html"
    copy.write_text(healthy_file.read_text(encoding="utf-8").replace("</body>", f"{SCRIPT}</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=5000", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout).group(1)))
    assert len(seen["widths"]) == 7 and min(seen["widths"]) > 300
    assert seen["overflow"] <= 0
    assert seen["verdict"] != "rgb(0, 0, 0)"


def test_accuracy_of_data_sorted_by_class(tmp_path):
    labels = np.repeat(np.arange(4), 30)
    x = (10 * np.eye(12)[labels] + X).astype("float32")
    write_report(encoder_with(), (x, labels), tmp_path / "r.html", NOISE)
    cell = re.search(r"kNN accuracy</th><td>([\d.]+)", (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert float(cell.group(1)) == 1.0


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((X, np.eye(3)[LABELS]), {}, r"120 samples and 360 labels.*argmax"),
        ((X, X), {}, r"120 samples and 1440 labels"),
        (((X, X), LABELS), {}, r"unaltered samples of one encoder. Received: a tuple of 2"),
        (X, {"augmenter": None}, r"Received: None, and a model without an augmenter"),
        (X, {"max_samples": 1}, r"`max_samples` must be an integer of at least 2. Received: max_samples=1"),
    ],
)
def test_what_is_no_labelled_set_is_named(tmp_path, data, options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        write_report(encoder_with(), data, tmp_path / "r.html", **{"augmenter": NOISE, **options})
    assert list(tmp_path.iterdir()) == []


def test_collapsed(tmp_path):
    assert write_report(encoder_with(100.0), X, tmp_path / "r.html", NOISE) == "Collapsed"
    page = read(tmp_path / "r.html")
    assert page.texts["verdict"].strip() == "Collapsed"
    assert "collapsed to a point" in page.texts["advice"] and "BatchNormalization" in page.texts["advice"]


def test_diverged(tmp_path):
    encoder = encoder_with()
    encoder.set_weights([w * np.nan for w in encoder.get_weights()])
    assert write_report(encoder, (X, LABELS), tmp_path / "r.html", NOISE) == "Diverged"
    assert len(read(tmp_path / "r.html").images) == 2  # those of the loss


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "r.html"
    target.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(encoder_with(), X, target, NOISE)
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"] and target.read_text() == "old"


def test_report_of_a_saved_model(tmp_path):
    model = keras_tfcl.ContrastiveModel(encoder_with(), augmenter=NOISE)
    model.compile("adam", keras_tfcl.ArctanhInfoNCE())
    model.save(tmp_path / "run.keras")
    np.savez(tmp_path / "held_out.npz", x=X, y=LABELS)
    verdict = report_saved_model(tmp_path / "run.keras", str(tmp_path / "held_out.npz"), tmp_path / "r.html")
    assert verdict == "Healthy"
    assert "run.keras on held_out.npz" in "".join(read(tmp_path / "r.html").texts.values())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [({"z": X}, "must hold an array `x` or `images`"), ({"x": X, "y": LABELS[:5]}, "120 samples and 5 labels")],
)
def test_a_file_that_is_no_set_of_samples_is_named(tmp_path, arrays, message):
    keras_tfcl.ContrastiveModel(encoder_with(), augmenter=NOISE).save(tmp_path / "run.keras")
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        report_saved_model(tmp_path / "run.keras", str(tmp_path / "data.npz"), tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_an_encoder_without_augmenter_gets_one_by_the_kind_of_image(tmp_path):
    encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(8)])
    encoder.save(tmp_path / "encoder.keras")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), "uint8"))
    arguments = tmp_path / "encoder.keras", str(tmp_path / "images.npy")
    assert report_saved_model(*arguments, tmp_path / "r.html", max_samples=20) in COLOURS
    assert re.search(r"<th>samples</th><td>20<", (tmp_path / "r.html").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="cartoons"):
        report_saved_model(*arguments, tmp_path / "s.html", kind="cartoons")


def test_a_data_set_that_cannot_be_downloaded_is_named(tmp_path, monkeypatch):
    def load_images(*args, **kwargs):
        raise RuntimeError("cifar10 could not be downloaded")

    monkeypatch.setattr("keras_tfcl.diagnostics.saved_model.load_images", load_images)
    keras_tfcl.ContrastiveModel(encoder_with(), augmenter=NOISE).save(tmp_path / "run.keras")
    with pytest.raises(RuntimeError, match="could not be downloaded"):
        report_saved_model(tmp_path / "run.keras", "cifar10", tmp_path / "r.html")


class Fixed(keras.Model):
    """Gives the rows it is fed, so that a test decides on the embeddings."""

    def call(self, x):
        return keras.ops.convert_to_tensor(x)


def suggestion(points, labels=None, loss=None, noise=0.2):
    model = Fixed()
    model.loss = loss or keras_tfcl.InfoNCE(0.2)
    data = points if labels is None else (points, labels)
    return suggest_loss(model, data, augmenter=keras.layers.GaussianNoise(noise, seed=1))


def test_suggests_by_the_figures():
    rng = np.random.default_rng(1)
    uniform = rng.normal(size=(400, 32)).astype("float32")
    clustered = uniform * np.geomspace(1, 0.05, 32, dtype="float32")
    too_uniform, cramped = suggestion(uniform), suggestion(clustered + np.eye(32, dtype="float32")[0])
    assert too_uniform.losses[0] == "InfoNCE(0.4)" and "larger temperature" in too_uniform.text
    assert cramped.losses[0] == "InfoNCE(0.1)" and "smaller temperature" in cramped.text
    for found in (too_uniform, cramped):
        assert f"{found.spread.uniformity:.2f}" in found.text and f"{found.uniform:.2f}" in found.text
    assert suggestion(uniform, loss=keras_tfcl.ArctanhInfoNCE(8.0)).losses[0] == "ArctanhInfoNCE(scale=4)"
    learned = keras_tfcl.ContrastiveLoss(keras_tfcl.LearnableTemperature(0.03))
    assert suggestion(uniform, loss=learned).losses[0] == "InfoNCE(0.06)"
    at_the_end = suggestion(clustered + np.eye(32, dtype="float32")[0], loss=keras_tfcl.InfoNCE(0.05))
    assert at_the_end.losses == ("HardNegativeInfoNCE(0.05, alpha=0.1)",)
    hard = suggestion(clustered + np.eye(32, dtype="float32")[0], loss=keras_tfcl.ArctanhInfoNCE(8.0))
    assert hard.losses == ("ArctanhInfoNCE(scale=16)", "ContrastiveLoss(Arctanh(8), HardNegatives(alpha=0.1))")
    labelled = suggestion(uniform, np.arange(400) % 2)
    assert f"mean cosine within a class is {labelled.spread.tolerance:.2f}" in labelled.text
    for expression in (*too_uniform.losses, *cramped.losses, *hard.losses):
        assert eval(expression, dict(vars(keras_tfcl)))  # names of the library


def test_a_temperature_too_small_is_not_made_smaller():
    """Around a common direction uniformity is far from uniform, which alone would ask for a smaller temperature."""
    points = np.random.default_rng(3).normal(size=(100, 16)).astype("float32") + 1
    found = suggestion(points, loss=keras_tfcl.InfoNCE(0.003), noise=0.3)
    assert [diagnosis.name for diagnosis in found.diagnoses] == ["temperature too small"]
    assert found.spread.uniformity < 0.75 * found.uniform
    assert found.losses == ("InfoNCE(0.05)",) and "larger temperature" in found.text


def test_diagnoses_come_before_losses():
    assert suggestion(np.ones((50, 8), "float32"), noise=0.01).losses == ()
    copies = np.random.default_rng(2).normal(size=(50, 16)).astype("float32")
    found = suggestion(np.concatenate([copies, copies]))
    assert [diagnosis.name for diagnosis in found.diagnoses] == ["duplicates"] and found.losses == ()
    assert "Another loss is not the first thing to try" in found.text
