"""Streams of views and images from files: what is read, in which order, and what is left out."""

import gzip
import io
import os
import random
import struct
import subprocess
import sys
import tarfile
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_tfcl
from helpers.registered_set import define
from keras_tfcl.data import decoding, image_batches, image_views
from keras_tfcl.data.decoding import decode_crops, decode_fitted, random_window
from keras_tfcl.data.image_source import find_images
from keras_tfcl.export.runtime.images import ImageRule

RNG = np.random.default_rng(0)


def smooth_image(height=40, width=50, channels=3):
    """A smooth image, which JPEG keeps almost as it is."""
    small = Image.fromarray(RNG.integers(0, 256, (4, 5, channels), "uint8").squeeze())
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Twelve images in two nested class folders, beside what a file system leaves around."""
    for i in range(12):
        path = tmp_path / ("cats" if i < 5 else "dogs/young") / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth_image().save(path, quality=95)
    (tmp_path / "cats" / "._00.jpg").write_bytes(b"x")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "a.jpg").write_bytes(b"x")
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    return tmp_path


def elements(dataset):
    return [*dataset.as_numpy_iterator()]


def test_a_folder_gives_batches_of_views(folder):
    found = elements(image_views(folder, batch_size=5, image_size=16, views=3))
    assert len(found) == 2  # two of twelve are left over
    (views,) = found[0]
    assert len(views) == 3 and all(v.shape == (5, 16, 16, 3) and v.dtype == np.float32 for v in views)
    assert min(v.min() for v in views) >= 0 and max(v.max() for v in views) <= 255
    assert np.abs(views[0] - views[1]).mean() > 1


def test_labels_are_the_first_folders(folder):
    data = image_batches(folder, batch_size=5, image_size=8, labels=True)
    assert data.reader.files.class_names == ("cats", "dogs")
    assert np.concatenate([y for _, y in elements(data)]).tolist() == [0] * 5 + [1] * 7
    views = image_views(folder, batch_size=12, image_size=16, labels=True)
    for _, y in elements(views):
        assert sorted(y.tolist()) == [0] * 5 + [1] * 7


def test_order_and_views_follow_from_seed_and_step(folder):
    def batches(data):
        return np.concatenate([v[0][0] for v in elements(data)])

    def views(seed=0):
        return image_views(folder, batch_size=4, image_size=16, seed=seed)

    data = views()
    one, two = batches(data), batches(data)
    resumed = views().steps.passes(tf.data.Dataset.from_tensors(np.int64(1)))
    np.testing.assert_array_equal(two, batches(resumed))
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, batches(views(seed=1)))


def test_the_weights_of_a_model_do_not_depend_on_earlier_data_sets(folder):
    """The first data set of a kind makes layers, which draw seeds; a second one does not."""
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        image_views(folder, batch_size=4, image_size=17)
        drawn.append(random.random())
    assert drawn[0] == drawn[1]


def test_each_image_comes_once_in_a_pass(tmp_path):
    for i in range(20):
        Image.new("RGB", (20, 20), (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
    found = np.concatenate(elements(image_batches(tmp_path, batch_size=6, image_size=4)))
    assert sorted(np.round(found[:, 0, 0, 0]).tolist()) == [10 * i for i in range(20)]


def add_member(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def test_lists_of_paths_and_tar_shards_are_the_same_images(folder, tmp_path_factory):
    paths = sorted(folder.rglob("[0-9]*.jpg"))
    shards = tmp_path_factory.mktemp("shards")
    for s in range(2):
        with tarfile.open(shards / f"part-{s}.tar", "w") as archive:
            for i, path in enumerate(paths[6 * s : 6 * s + 6]):
                key = f"./n.01/{6 * s + i:04}"  # as `tar -cf part.tar .` names it
                add_member(archive, f"{key}.jpg", path.read_bytes())
                add_member(archive, f"{key}.cls", b"%d" % (i % 3))
            add_member(archive, "./.thumbnails/0000.jpg", b"hidden")
    sources = (folder, [*map(str, paths)], sorted(shards.iterdir()))
    one, two, three = (np.concatenate(elements(image_batches(s, 5, image_size=16))) for s in sources)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    assert find_images(sources[2]).classes.tolist() == [0, 1, 2, 0, 1, 2] * 2


def test_names_and_classes_belong_to_one_image(tmp_path):
    for folder in ("store", "cats", "dogs"):
        (tmp_path / folder).mkdir()
        (tmp_path / "store" / f"{folder}.jpg").write_bytes(b"")
    links = [tmp_path / "cats" / "0.jpg", tmp_path / "dogs" / "0.jpg"]
    for link in links:
        link.symlink_to(tmp_path / "store" / f"{link.parent.name}.jpg")
    assert find_images(links).class_names == ("cats", "dogs")  # the folder of the link, not of the file
    shards = [tmp_path / folder / "0.tar" for folder in ("cats", "dogs")]
    for shard in shards:
        with tarfile.open(shard, "w") as archive:
            add_member(archive, "a.jpg", b"1")
    assert find_images(shards).names == ["cats/0.tar:a.jpg", "dogs/0.tar:a.jpg"]
    with tarfile.open(shards[0], "a") as archive:
        add_member(archive, "a.jpg", b"2")
    with pytest.raises(ValueError, match=r"Received: 'a\.jpg' twice in .*cats/0\.tar"):
        find_images(shards)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:1600], r"part\.tar: unexpected end of data"),
        (lambda data: data[:1100], r"part\.tar: no header at byte 1024"),  # where `tarfile` ends in silence
        (lambda data: data[:1100] + b"\1" + data[1101:], r"part\.tar: no header at byte 1024"),
        (gzip.compress, r"part\.tar: .* Unpack it first, for example with gunzip"),
        (lambda data: data.replace(b"7777", b"-777"), r"a class, from 0 on\. Received: .*a\.cls with b'-777'"),
    ],
)
def test_damaged_shards_are_refused(tmp_path, change, message):
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        for name, data in (("a.jpg", b"1" * 40), ("a.cls", b"7777"), ("b.jpg", b"2" * 600)):
            add_member(archive, name, data)
    (tmp_path / "part.tar").write_bytes(change((tmp_path / "whole.tar").read_bytes()))
    with pytest.raises(ValueError, match=message):
        find_images(tmp_path / "part.tar")


def test_registered_sets_are_read_by_name(tfds):
    define(tfds, "KerasTfclStream", {"train": 30, "test": 9})
    data = image_batches("keras_tfcl_stream", batch_size=8, image_size=8, labels=True)
    builder = tfds.builder("keras_tfcl_stream")
    expected = [*builder.as_dataset(split="train", as_supervised=True).as_numpy_iterator()]
    found = elements(data)
    np.testing.assert_array_equal(
        np.concatenate([x for x, _ in found]), [np.repeat(image, 3, axis=-1) for image, _ in expected]
    )
    assert np.concatenate([y for _, y in found]).tolist() == [label for _, label in expected]
    assert data.reader.files.class_names == ("a", "b", "c")
    assert len(find_images("keras_tfcl_stream:1.0.0@test")) == 9
    some = builder.as_dataset(split="train[10:14]").as_numpy_iterator()
    part = elements(image_batches("keras_tfcl_stream@train[10:14]", batch_size=4, image_size=8))
    assert part[0][:, 0, 0, 0].tolist() == [element["image"][0, 0, 0] for element in some]
    ((views,),) = elements(image_views("keras_tfcl_stream@test", batch_size=9, image_size=16))
    assert len(views) == 2 and views[0].shape == (9, 16, 16, 3)
    with pytest.raises(ValueError, match=r"one of \['test', 'train'\].* Received: 'valid' of 'keras_tfcl_stream'"):
        find_images("keras_tfcl_stream@valid")


ODD = {
    "grey": lambda: encoded(smooth_image(channels=1).convert("L")),
    "cmyk": lambda: encoded(smooth_image().convert("CMYK")),
    "alpha": lambda: encoded(smooth_image(channels=4), "PNG"),
    "palette": lambda: encoded(smooth_image().quantize(64), "PNG"),
    "webp": lambda: encoded(smooth_image(), "WEBP"),
    "gif": lambda: encoded(smooth_image(), "GIF"),
    "tiff": lambda: encoded(smooth_image(), "TIFF"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_kinds_of_images_are_read_as_pillow_reads_them(kind):
    data = ODD[kind]()
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA" if kind == "palette" else "RGB").convert("RGB"))
    found = decode_crops(data, lambda h, w: [random_whole(h, w)], [(40, 50)])[0]
    assert np.abs(found.astype(int) - expected).max() <= 3  # two decoders of JPEG
    np.testing.assert_array_equal(decode_fitted(data, (40, 50)), expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_windows_of_a_large_jpeg_are_parts_of_the_whole_image(mode, monkeypatch):
    data, rng = encoded(smooth_image(120, 90).convert(mode)), np.random.default_rng(0)
    windows = [random_window(rng, 120, 90, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(5)]
    parts = [decode_crops(data, lambda h, w: windows, [(24, 24)] * 5)]
    monkeypatch.setattr(decoding, "WHOLE_UP_TO", 0)
    parts.append(decode_crops(data, lambda h, w: windows, [(24, 24)] * 5))
    apart = np.abs(np.subtract(*np.asarray(parts, "int16")))
    assert apart.mean() < 0.05 and apart.max() <= 6  # colours are smoothed across the edge of a window


def random_whole(height, width):
    return random_window(np.random.default_rng(0), height, width, (1.0, 1.0), (width / height, width / height))


def test_sixteen_bits_are_scaled_to_eight():
    deep = np.linspace(0, 65_535, 64 * 64).reshape(64, 64).astype("uint16")
    found = decode_fitted(encoded(Image.fromarray(deep), "PNG"), (64, 64))
    np.testing.assert_allclose(found, np.repeat(deep[..., None] / 257, 3, axis=-1), atol=0.51)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    """Whatever else the EXIF data say: here a width of -5, which Pillow reads and cannot write."""
    entries = struct.pack("<HHIi", 0x0100, 9, 1, -5) + struct.pack("<HHII", 0x0112, 3, 1, orientation)
    data = encoded(smooth_image(24, 36), exif=b"Exif\0\0II*\0\x08\0\0\0\2\0" + entries + bytes(4))
    rgb = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    turned = {
        1: rgb, 2: rgb[:, ::-1], 3: rgb[::-1, ::-1], 4: rgb[::-1], 5: rgb.transpose(1, 0, 2),
        6: np.rot90(rgb, -1), 7: rgb[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(rgb),
    }[orientation]  # fmt: skip
    found = decode_crops(data, lambda h, w: [random_whole(h, w)], [turned.shape[:2]])[0]
    assert np.abs(found.astype(int) - turned).max() <= 3
    np.testing.assert_array_equal(ImageRule(*turned.shape, "uint8").read(data), turned)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_are_read_as_the_served_encoder_reads_them(kind):
    """One rule for pixels: bit for bit the rule that `OnnxEncoder` applies."""
    data = encoded(smooth_image(61, 47), kind)
    np.testing.assert_array_equal(decode_fitted(data, (16, 16)), ImageRule(16, 16, 3, "uint8").read(data))


def damaged():
    good = encoded(smooth_image())
    return {
        "empty.jpg": b"",
        "text.png": b"this is no image",
        "cut.jpg": good[: len(good) // 2],
        "cut.png": encoded(smooth_image(), "PNG")[:200],
        "zeros.jpg": b"\xff\xd8\xff" + bytes(500),
    }


def test_broken_images_are_left_out_counted_and_named_once(folder):
    for name, data in damaged().items():
        (folder / "cats" / name).write_bytes(data)
    data = image_views(folder, batch_size=17, image_size=16)
    with pytest.warns(UserWarning, match=r"5 of 17 images could not be read and were left out: .*cats/empty\.jpg"):
        assert len(elements(data)) == 1
    assert {name.split("/")[1] for name in data.reader.skipped} == set(damaged())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elements(data)  # named once


def test_folders_that_cannot_be_read_are_named(folder, monkeypatch):
    scan = os.scandir

    def refuse_cats(path):
        if str(path).endswith("cats"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse_cats)
    with pytest.warns(UserWarning, match=r"The folder '.*cats' was left out: Permission denied"):
        assert len(find_images(folder)) == 7


def test_a_folder_of_broken_images_is_refused(tmp_path):
    for name, data in damaged().items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(Exception, match=r"`source` must hold readable images\. Received: 5 that cannot be read"):
        elements(image_views(tmp_path, batch_size=2, image_size=16))


def test_plain_batches_leave_broken_images_out(folder):
    (folder / "cats" / "02b.jpg").write_bytes(damaged()["cut.jpg"])
    data = image_batches(folder, batch_size=4, image_size=16, labels=True)
    with pytest.warns(UserWarning, match=r"1 of 13 images .* cats/02b\.jpg"):
        found = elements(data)
    assert [len(y) for _, y in found] == [3, 4, 4, 1]
    assert np.concatenate([y for _, y in found]).tolist() == [0] * 5 + [1] * 7


def test_broken_images_raise_where_asked(folder):
    (folder / "cats" / "cut.jpg").write_bytes(damaged()["cut.jpg"])
    with pytest.raises(Exception, match=r"Every image must be readable\. Received: cats/cut\.jpg"):
        elements(image_batches(folder, batch_size=4, image_size=16, on_error="raise"))


def test_fit_predict_and_validation_take_them(folder):
    encoder = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    model = keras_tfcl.ContrastiveModel(encoder)
    model.compile("adam", keras_tfcl.InfoNCE(0.1), run_eagerly=True)
    views = image_views(folder, batch_size=4, image_size=16)
    history = model.fit(views, validation_data=image_views(folder, 6, image_size=16), epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["val_loss"]).all()
    assert model.predict(image_batches(folder, 5, image_size=16), verbose=0).shape == (12, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"source": "nowhere"}, FileNotFoundError, r"`source` must be a folder .* Received: 'nowhere', which does not"),
        ({"source": []}, ValueError, r"`source` must hold at least one image\. Received: an empty list"),
        ({"batch_size": 13}, ValueError, r"`batch_size` must not exceed .* Received: batch_size=13 for 12 images"),
        ({"seed": -1}, ValueError, r"`seed` must be an integer of at least 0\. Received: seed=-1"),
        ({"views": 0}, ValueError, r"`views` must be an integer of at least 1\. Received: views=0"),
        ({"recipe": "paintings"}, ValueError, r"`recipe` must be .* Received: recipe='paintings'"),
        ({"small_views": 2}, ValueError, r"belong to recipe=\"multi_crop\"\. Received: small_views=2, small_size=None"),
        ({"min_area": 1.5}, ValueError, r"`min_area` must be a number in \(0, 1\]\. Received: min_area=1\.5"),
        ({"strength": -1.0}, ValueError, r"`strength` must be a positive finite number\. Received: strength=-1\.0"),
        ({"on_error": "ignore"}, ValueError, r"`on_error` must be one of .* Received: on_error='ignore'"),
    ],
)
def test_wrong_arguments_are_named(folder, arguments, error, message):
    with pytest.raises(error, match=message):
        image_views(**{"source": folder, "batch_size": 4, "image_size": 8, **arguments})


def test_multi_crop_gives_views_of_two_sizes_and_fit_takes_them(folder):
    options = {"batch_size": 4, "image_size": 16, "recipe": "multi_crop", "small_views": 3, "small_size": 8}
    data = image_views(folder, **options)
    ((views,), *_) = elements(data)
    assert [view.shape for view in views] == [(4, 16, 16, 3)] * 2 + [(4, 8, 8, 3)] * 3
    ((again,), *_) = elements(image_views(folder, **options))
    for view, same in zip(views, again, strict=True):
        np.testing.assert_array_equal(view, same)
    (usual,) = image_views(folder, 2, image_size=224, recipe="multi_crop").element_spec
    assert [view.shape[1] for view in usual] == [224] * 2 + [96] * 6  # SwAV's
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    model = keras_tfcl.ContrastiveModel(keras.Sequential([keras.Input((None, None, 3)), *layers]))
    model.compile("adam", keras_tfcl.InfoNCE(0.1))
    history = model.fit(data, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_min_area_and_flip_hold_for_every_view(tmp_path):
    """Of a horizontal ramp, a view is a ramp whose height is the share of the width that it shows."""
    ramp = np.broadcast_to(np.linspace(0, 255, 60).astype("uint8")[None, :, None], (60, 60, 3))
    for i in range(40):
        Image.fromarray(ramp).save(tmp_path / f"{i:02}.png")

    def rises(**options):
        (((view,),),) = elements(image_views(tmp_path, 40, image_size=60, views=1, strength=1e-6, **options))
        rows = view.mean(axis=(1, 3))
        return rows[:, -1] - rows[:, 0]

    usual = rises()
    assert (usual < 0).any() and (usual > 0).any() and np.abs(usual).min() < 120
    # An area of at least a half, of proportions 3:4 at least, is wider than sqrt(0.5 * 3 / 4) = 0.61 of the width.
    assert rises(min_area=0.5, flip=False).min() > 0.61 * 255 - 10


def test_labels_need_class_folders(tmp_path):
    smooth_image().save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"labels=True takes the first folder .* Received: images without class"):
        image_batches(tmp_path, batch_size=1, labels=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"Received: the folder '.*empty' without any file"):
        find_images(tmp_path / "empty")


MEMORY = """
import resource, sys
import keras_tfcl
data = keras_tfcl.data.image_views(sys.argv[1], batch_size=32, image_size=64)
for i, _ in enumerate(data):
    if i == 10:
        early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(early // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, len(data))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_folder(tmp_path):
    data = [encoded(smooth_image(300, 400)) for _ in range(10)]
    for i in range(20_000):
        (tmp_path / f"{i}.jpg").write_bytes(data[i % 10])
    done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    early, peak, batches = map(int, done.stdout.split())
    assert batches == 625 and peak < 1024 and peak - early < 150
